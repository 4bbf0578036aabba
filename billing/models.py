"""Every table of billing in one import, for migrations, and the constraints that SQLModel cannot say."""

from pathlib import Path

from billing.connect import PayoutAccount
from billing.earnings import LeaseEarning
from billing.ledger import Journal, LedgerAccount, Transfer
from billing.payouts import Payout, PayoutOperation
from billing.settled import SettledLease
from billing.wallets import Hold, TopUp
from billing.webhooks import WebhookEvent

__all__ = [
    "Hold",
    "Journal",
    "LeaseEarning",
    "LedgerAccount",
    "Payout",
    "PayoutAccount",
    "PayoutOperation",
    "SettledLease",
    "TopUp",
    "Transfer",
    "WebhookEvent",
    "constraints_sql",
]


def constraints_sql() -> str:
    """Return the triggers and constraints of the ledger as SQL."""
    return (Path(__file__).parent / "ledger.sql").read_text()
