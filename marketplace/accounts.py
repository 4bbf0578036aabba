"""People, their roles, and the keys by which they are known."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from sqlmodel import Field, Session, SQLModel, col, func, select

from billing.ids import new_id
from marketplace.database import UTC_TIME
from marketplace.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated

Role = Literal["buyer", "provider", "finance", "operator", "head", "warden"]
"""What a key may do. ``head`` and ``warden`` keys belong to one cluster and to programs, not to people."""
PEOPLE: tuple[Role, ...] = ("buyer", "provider", "finance", "operator")
KEY_ID_DIGITS = 12


class Account(SQLModel, table=True):
    """A person or firm."""

    __tablename__ = "account"

    id: str = Field(primary_key=True)
    name: str
    email: str
    country: str
    vetted: bool = False
    """Approved by the operator: this account's devices may run a buyer's code as Ray nodes of the vetted tier."""
    created_at: datetime = Field(sa_type=UTC_TIME)


class ApiKey(SQLModel, table=True):
    """A key, stored as its SHA-256 only: keys carry 256 random bits, so a slow hash would add nothing."""

    __tablename__ = "api_key"

    hash: str = Field(primary_key=True)
    account_id: str = Field(foreign_key="account.id", index=True)
    role: str
    cluster_id: str | None = None
    hint: str
    """The last four characters, by which a person tells keys apart."""
    created_at: datetime = Field(sa_type=UTC_TIME)
    revoked_at: datetime | None = Field(default=None, sa_type=UTC_TIME)

    @property
    def id(self) -> str:
        """What names a key without being one."""
        return self.hash[:KEY_ID_DIGITS]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as its key says."""

    account_id: str
    role: Role
    cluster_id: str | None = None
    key_id: str = ""


def create_account(session: Session, *, name: str, email: str, country: str, at: datetime) -> Account:
    """Add an account. Raises InvalidInput for an empty name, an e-mail without @, or a country not of two letters."""
    if not name.strip() or len(name) > 200:
        raise InvalidInput("an account needs a name of at most 200 characters")
    if "@" not in email or len(email) > 254:
        raise InvalidInput(f"{email[:60]!r} is not an e-mail address")
    if not (len(country) == 2 and country.isascii() and country.isalpha()):
        raise InvalidInput(f"{country[:20]!r} is not a country", hint="write its two letters, such as DE")
    account = Account(id=new_id("acc"), name=name.strip(), email=email, country=country.upper(), created_at=at)
    session.add(account)
    session.flush()
    return account


def create_key(session: Session, *, account_id: str, role: str, at: datetime, cluster_id: str | None = None) -> str:
    """Add a key and return it; this is the only time that it can be seen. Raises InvalidInput for an unknown role."""
    if role not in get_args(Role):
        raise InvalidInput(f"{role[:20]!r} is not a role", hint=f"one of {', '.join(PEOPLE)}")
    account(session, account_id)
    key = f"spare_{role}_{secrets.token_urlsafe(32)}"
    remember_key(session, key, account_id=account_id, role=role, at=at, cluster_id=cluster_id)
    return key


def remember_key(
    session: Session, key: str, *, account_id: str, role: str, at: datetime, cluster_id: str | None = None
) -> None:
    """Store the hash of a key that is known already, once."""
    if find_key(session, key) is None:
        session.add(
            ApiKey(
                hash=_hash(key), account_id=account_id, role=role, cluster_id=cluster_id, hint=key[-4:], created_at=at
            )
        )
        session.flush()


def find_key(session: Session, key: str) -> ApiKey | None:
    """Return what is known of a key, also of a revoked one; None for one that never was."""
    return session.get(ApiKey, _hash(key))


def create_own_key(session: Session, caller: Caller, *, role: str, at: datetime) -> str:
    """Add another key of a role that the caller's account has already, and return it.

    Raises Forbidden for a role that the account has no live key of. Keys of finance and operators are made with one of
    theirs alone, so that a buyer's key, which lives in notebooks, opens neither.
    """
    if role != caller.role:
        has = role in (key.role for key in keys(session, caller.account_id) if key.revoked_at is None)
        if role in ("finance", "operator") or not has:
            raise Forbidden(f"this key cannot make a {role} key", hint=f"use a {role} key, or ask the operator")
    return create_key(session, account_id=caller.account_id, role=role, at=at)


def keys(session: Session, account_id: str) -> list[ApiKey]:
    """Return an account's own keys, newest first; those of its clusters' programs are left out."""
    query = select(ApiKey).where(ApiKey.account_id == account_id, col(ApiKey.cluster_id).is_(None))
    return list(session.exec(query.order_by(col(ApiKey.created_at).desc(), ApiKey.hash)))


def revoke_key(session: Session, caller: Caller, key_id: str, *, at: datetime) -> ApiKey:
    """End a key of the caller's account, or of anybody when an operator calls. Ending it twice changes nothing.

    Raises NotFound, and Conflict for the key that is calling: its holder would be locked out.
    """
    query = select(ApiKey).where(func.left(ApiKey.hash, KEY_ID_DIGITS) == key_id, col(ApiKey.cluster_id).is_(None))
    if caller.role != "operator":
        query = query.where(ApiKey.account_id == caller.account_id)
    found = session.exec(query.with_for_update()).first()
    if found is None:
        raise NotFound(f"no key {key_id[:40]!r}", hint="spare key list shows your keys")
    if found.id == caller.key_id:
        raise Conflict(
            "this is the key that you are using", hint=f"make another, spare key create {found.role}, and use that one"
        )
    found.revoked_at = found.revoked_at or at
    session.add(found)
    return found


def revoke_cluster_keys(session: Session, cluster_id: str, *, at: datetime) -> None:
    """End the keys of a cluster's head and warden."""
    for key in session.exec(select(ApiKey).where(ApiKey.cluster_id == cluster_id, ApiKey.revoked_at == None)):  # noqa: E711
        key.revoked_at = at
        session.add(key)


def authenticate(session: Session, authorization: str | None) -> Caller:
    """Return who a request's Authorization header speaks for. Raises Unauthenticated."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated("this needs a key", hint="send it as: Authorization: Bearer spare_…")
    found = find_key(session, key.strip())
    if found is None or found.revoked_at is not None:
        raise Unauthenticated("this key is not known, or was revoked", hint="check SPARE_API_KEY")
    return Caller(found.account_id, found.role, found.cluster_id, found.id)  # type: ignore[arg-type]


def require(caller: Caller, *roles: Role) -> Caller:
    """Return the caller when it has one of the roles. Raises Forbidden otherwise."""
    if caller.role not in roles:
        raise Forbidden(f"a {caller.role} key cannot do this", hint=f"use a key with the role {' or '.join(roles)}")
    return caller


def account(session: Session, account_id: str) -> Account:
    """Return an account. Raises NotFound."""
    found = session.get(Account, account_id)
    if found is None:
        raise NotFound(f"no account {account_id[:40]!r}")
    return found


def vet(session: Session, account_id: str) -> Account:
    """Approve an account: its devices belong to the vetted tier from now on."""
    found = account(session, account_id)
    found.vetted = True
    session.add(found)
    return found


def derived_secret(secret_key: bytes, label: str) -> str:
    """Return a secret that only this market can make, so that it need not be stored: HMAC-SHA-256 as 64 hex digits."""
    return hmac.new(secret_key, label.encode(), hashlib.sha256).hexdigest()


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
