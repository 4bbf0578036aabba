"""A person's keys: make another, list them, end one."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from billing.ids import now_utc
from marketplace import accounts
from marketplace.api.accounts import PersonRole
from marketplace.api.doors import InSession, Person
from marketplace.errors import Forbidden

router = APIRouter(prefix="/v1/keys", tags=["accounts"])


class NewKey(BaseModel):
    """What the key shall be for."""

    model_config = ConfigDict(extra="forbid")

    role: PersonRole


class Created(BaseModel):
    """A new key; it is shown this once."""

    role: str
    key: str


class KeyView(BaseModel):
    """A key without what would let one use it."""

    key_id: str
    role: str
    last_four: str
    created_at: datetime
    revoked_at: datetime | None


@router.post("", status_code=201)
def create(body: NewKey, session: InSession, caller: Person) -> Created:
    """Make another key of a role that one has."""
    return Created(role=body.role, key=accounts.create_own_key(session, caller, role=body.role, at=now_utc()))


@router.get("")
def mine(session: InSession, caller: Person, account_id: str = "") -> list[KeyView]:
    """List one's keys, newest first; an operator may name anybody's account."""
    if account_id and account_id != caller.account_id:
        if caller.role != "operator":
            raise Forbidden(f"a {caller.role} key lists its own account's keys alone")
        accounts.account(session, account_id)
    return [_view(key) for key in accounts.keys(session, account_id or caller.account_id)]


@router.delete("/{key_id}")
def revoke(key_id: str, session: InSession, caller: Person) -> KeyView:
    """End a key: of one's own account, or as an operator anybody's; never the one that is calling."""
    return _view(accounts.revoke_key(session, caller, key_id, at=now_utc()))


def _view(key: accounts.ApiKey) -> KeyView:
    return KeyView(
        key_id=key.id, role=key.role, last_four=key.hint, created_at=key.created_at, revoked_at=key.revoked_at
    )
