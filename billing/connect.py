"""A provider's way to its money: onboarding at the payment service, and whether it can be paid."""

from datetime import datetime

from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Field, Session, SQLModel, select

from billing.errors import InvalidInput, NotFound
from billing.gateway import ConnectedAccount, Gateway
from billing.ids import now_utc
from billing.sessions import Sessions, transaction


class PayoutAccount(SQLModel, table=True):
    """Where a provider is paid, and why it cannot be (``not_payable``, empty when it can)."""

    __tablename__ = "payout_account"

    provider_id: str = Field(primary_key=True)
    stripe_account_id: str = Field(unique=True)
    country: str
    not_payable: str = "the onboarding is not finished"
    created_at: datetime
    refreshed_at: datetime | None = None

    @property
    def enabled(self) -> bool:
        """Whether this provider can be paid now."""
        return not self.not_payable


def payout_account(session: Session, provider_id: str) -> PayoutAccount | None:
    """Return where a provider is paid; None before its onboarding started."""
    return session.get(PayoutAccount, provider_id)


def start_onboarding(
    sessions: Sessions,
    gateway: Gateway,
    *,
    provider_id: str,
    email: str,
    country: str,
    return_url: str,
    refresh_url: str,
) -> str:
    """Return the URL, good for one use, where a provider gives its details; call again for a fresh one.

    ``country`` is its two-letter code and stays what it was the first time. Raises InvalidInput, Outage, and what the
    payment service refuses in its own words.
    """
    if not (len(country) == 2 and country.isascii() and country.isalpha()):
        raise InvalidInput(f"{country!r} is not a country", hint="give two letters such as DE or US")
    with sessions() as session:
        known = payout_account(session, provider_id)
    if known is None:
        opened = gateway.create_account(provider_id=provider_id, email=email, country=country.upper())
        known = _remember(sessions, provider_id, opened)
    return gateway.account_link(account_id=known.stripe_account_id, return_url=return_url, refresh_url=refresh_url)


def refresh(sessions: Sessions, gateway: Gateway, *, provider_id: str, at: datetime) -> PayoutAccount:
    """Ask the payment service whether a provider can be paid; NotFound before its onboarding started."""
    with sessions() as session:
        known = payout_account(session, provider_id)
    if known is None:
        raise NotFound(f"provider {provider_id} has not started its onboarding")
    account = gateway.account(known.stripe_account_id)
    with transaction(sessions) as session:
        apply_account(session, account, at=at)
        return session.exec(select(PayoutAccount).where(PayoutAccount.provider_id == provider_id)).one()


def apply_account(session: Session, account: ConnectedAccount, *, at: datetime) -> None:
    """Note whether a connected account, as fetched at ``at``, can be paid; an older view changes nothing.

    Raises NotFound when the account is none of ours.
    """
    statement = (
        select(PayoutAccount)
        .where(PayoutAccount.stripe_account_id == account.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    known = session.exec(statement).one_or_none()
    if known is None:
        raise NotFound(f"no provider is paid to {account.id}")
    if known.refreshed_at is None or known.refreshed_at <= at:
        known.country, known.not_payable, known.refreshed_at = account.country, account.not_payable, at


def _remember(sessions: Sessions, provider_id: str, opened: ConnectedAccount) -> PayoutAccount:
    """Store the account unless another call was first; then its account is the one, and ours stays unused."""
    statement = insert(PayoutAccount).values(
        provider_id=provider_id,
        stripe_account_id=opened.id,
        country=opened.country,
        not_payable=opened.not_payable,
        created_at=now_utc(),
    )
    with transaction(sessions) as session:
        session.exec(statement.on_conflict_do_nothing(index_elements=["provider_id"]))
        return session.exec(select(PayoutAccount).where(PayoutAccount.provider_id == provider_id)).one()
