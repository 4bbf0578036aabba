"""Every setting of the market, read from SPARE_* in the environment."""

from functools import lru_cache
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The market's settings. Durations end in their unit; money is micro-dollars or basis points."""

    model_config = SettingsConfigDict(env_prefix="SPARE_", extra="ignore")

    home: Path = Path("~/.local/share/spare").expanduser()
    """Where the embedded database, the heads' files and the logs live."""
    database_url: str = ""
    """PostgreSQL to use; empty means the embedded one under ``home``."""
    host: str = "127.0.0.1"
    port: int = 8440
    metrics_port: int = 0
    """Where ``spare background`` serves /metrics, on 127.0.0.1; 0 means nowhere. A server has them at its own port."""
    public_url: str = ""
    """What devices, heads and wardens dial; empty means http://host:port."""
    head_ip: str = "127.0.0.2"
    """The address on which heads answer. Ray replaces 127.0.0.1 by the machine's own address; 127.0.0.2 stays."""
    node_ip: str = "127.0.0.2"
    """The address that devices give Ray for themselves; empty lets Ray find it."""
    secret_key: SecretStr = SecretStr("")
    """From it the market derives what it need not store; empty means a file made under ``home``."""
    operator_key: SecretStr = SecretStr("")
    """The first operator's key; empty means one made and written to ``home/operator.key``."""

    tick_seconds: float = 5.0
    fee_bps: int = 1000
    """The market's fee on a charge, in basis points; published at /v1/market."""
    price_micros_per_hour_max: int = 100_000_000
    lease_ms_max: int = 600_000
    lease_ms_min: int = 30_000
    """A shorter lease would be over before its device has joined and passed two checks."""
    notice_ms: int = 30_000
    """How long a device that loses its lease has to drain."""
    device_silence_ms_max: int = 10_000
    """A device that says nothing for this long is gone."""
    head_start_ms_max: int = 120_000
    reconnect_ms: int = 6_000
    """How long devices may take to come back to a market that was away; a renewal cleared before would be lost."""
    join_ms_max: int = 120_000
    """A leased device that has not joined its cluster by then loses the lease."""
    window_ms: int = 10_000
    """Usage is judged in windows of this length."""
    verification_hold_ms: int = 0
    """How long earnings stay pending before they can be paid."""

    stripe_api_key: SecretStr = SecretStr("")
    """Empty starts the Stripe fake on loopback."""
    stripe_api_base: str = ""
    stripe_webhook_secret: SecretStr = SecretStr("")
    stripe_connect_webhook_secret: SecretStr = SecretStr("")
    payout_minimum_cents: int = 500

    @property
    def url(self) -> str:
        """What others dial to reach this market."""
        return self.public_url or f"http://{self.host}:{self.port}"


@lru_cache
def settings() -> Settings:
    """Return the settings of this process."""
    return Settings()
