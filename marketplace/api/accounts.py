"""Accounts and keys: an operator adds people; each person adds keys of its own roles."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from billing.ids import now_utc
from marketplace import accounts, devices
from marketplace.api.doors import Anyone, InSession, Operator

router = APIRouter(prefix="/v1", tags=["accounts"])
PersonRole = Literal["buyer", "provider", "finance", "operator"]


class NewAccount(BaseModel):
    """A person to add, and the roles to give it keys for."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)
    email: str = Field(max_length=254)
    country: str = Field(max_length=2)
    roles: list[PersonRole] = Field(min_length=1, max_length=4)


class Keys(BaseModel):
    """An account and its new keys by role; they are shown this once."""

    account_id: str
    keys: dict[str, str]


class Me(BaseModel):
    """Who a key speaks for."""

    account_id: str
    name: str
    role: str
    vetted: bool


@router.post("/accounts", status_code=201)
def create(body: NewAccount, session: InSession, caller: Operator) -> Keys:
    """Add an account."""
    at = now_utc()
    account = accounts.create_account(session, name=body.name, email=body.email, country=body.country, at=at)
    keys = {role: accounts.create_key(session, account_id=account.id, role=role, at=at) for role in body.roles}
    return Keys(account_id=account.id, keys=keys)


@router.post("/accounts/{account_id}/vet")
def vet(account_id: str, session: InSession, caller: Operator) -> Me:
    """Approve a provider: its devices move to the vetted tier."""
    account = accounts.vet(session, account_id)
    devices.promote(session, account_id)
    return Me(account_id=account.id, name=account.name, role="", vetted=account.vetted)


@router.get("/me")
def me(session: InSession, caller: Anyone) -> Me:
    """Say who the key speaks for."""
    account = accounts.account(session, caller.account_id)
    return Me(account_id=account.id, name=account.name, role=caller.role, vetted=account.vetted)
