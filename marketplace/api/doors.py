"""What every router needs: the context, a session, and who calls."""

from collections.abc import Callable, Iterator
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlmodel import Session

from marketplace import accounts
from marketplace.accounts import Caller, Role
from marketplace.context import Context


def context_of(request: Request) -> Context:
    """Return the market that this server serves."""
    context: Context = request.app.state.context
    return context


def session_of(request: Request) -> Iterator[Session]:
    """Open one transaction for the request: committed at its end, rolled back on any error."""
    with context_of(request).sessions() as session, session.begin():
        yield session


# Says in the API's description how keys are sent; what they admit is decided below.
_bearer = HTTPBearer(auto_error=False, bearerFormat="spare_<role>_…", description="A key of the market")
Described = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


def caller_of(request: Request, _: Described = None) -> Caller:
    """Return who calls. Raises Unauthenticated."""
    with context_of(request).sessions() as session:
        return accounts.authenticate(session, request.headers.get("authorization"))


def only(*roles: Role) -> Callable[..., Caller]:
    """Return what admits callers of these roles alone."""

    def admitted(request: Request, _: Described = None) -> Caller:
        return accounts.require(caller_of(request), *roles)

    return admitted


InContext = Annotated[Context, Depends(context_of)]
# Committed before the answer is sent: who reads "done" can rely on it.
InSession = Annotated[Session, Depends(session_of, scope="function")]
Buyer = Annotated[Caller, Depends(only("buyer"))]
Provider = Annotated[Caller, Depends(only("provider"))]
Finance = Annotated[Caller, Depends(only("finance", "operator"))]
BuyerOrOperator = Annotated[Caller, Depends(only("buyer", "operator"))]
Operator = Annotated[Caller, Depends(only("operator"))]
Head = Annotated[Caller, Depends(only("head"))]
Warden = Annotated[Caller, Depends(only("warden"))]
Person = Annotated[Caller, Depends(only(*accounts.PEOPLE))]
Anyone = Annotated[Caller, Depends(caller_of)]
