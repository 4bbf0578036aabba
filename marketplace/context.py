"""What every door and every background step is given: settings, the database, the gateway to Stripe, one secret."""

import os
import platform
import secrets
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import structlog
from sqlalchemy import Engine

from billing.gateway import Gateway
from marketplace import accounts
from marketplace.clusters import Cluster
from marketplace.database import Sessions, transaction
from marketplace.settings import Settings

log = structlog.get_logger()
OPERATOR_KEY_FILE = "operator.key"


@dataclass(frozen=True)
class Context:
    """One market, wired."""

    settings: Settings
    sessions: Sessions
    gateway: Gateway
    secret: bytes

    @property
    def engine(self) -> Engine:
        """The engine on which sessions are opened."""
        with self.sessions() as session:
            bind = session.get_bind()
        assert isinstance(bind, Engine)
        return bind

    @property
    def versions(self) -> tuple[str, str]:
        """Python and Ray, which every node of a cluster must share."""
        return platform.python_version(), version("ray")

    def ray_token(self, cluster_id: str) -> str:
        """Return the token of a cluster's Ray: nobody holds another cluster's."""
        return accounts.derived_secret(self.secret, f"ray:{cluster_id}")

    def head_folder(self, cluster: Cluster) -> Path:
        """Return where a cluster's head and warden keep their files."""
        return self.settings.home / "clusters" / cluster.id


def secret_under(home: Path, name: str, *, prefix: str = "") -> str:
    """Return the secret kept in a file of that name, made when it is missing; readable by its owner only."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / name
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(prefix + secrets.token_hex(32))
        try:
            os.link(partial, path)  # the first of two writers wins, and both then read the same
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    return path.read_text().strip()


def ensure_operator(context: Context, *, at: datetime) -> None:
    """Make sure that the first operator's key is known; one that was revoked stays so."""
    given = context.settings.operator_key.get_secret_value()
    key = given or secret_under(context.settings.home, OPERATOR_KEY_FILE, prefix="spare_operator_")
    with transaction(context.sessions) as session:
        known = accounts.find_key(session, key)
        if known is None:
            operator = accounts.create_account(
                session, name="operator", email="operator@localhost", country="ZZ", at=at
            )
            accounts.remember_key(session, key, account_id=operator.id, role="operator", at=at)
        elif known.revoked_at is not None:
            place = "SPARE_OPERATOR_KEY" if given else str(context.settings.home / OPERATOR_KEY_FILE)
            hint = "put another operator's key there, or remove it and restart for a new operator"
            log.warning("the first operator's key was revoked", place=place, hint=hint)
