"""Spare from a buyer's notebook: ``from marketplace import Market``."""

from billing.errors import InvalidInput
from marketplace.client import Cluster, Job, Market, MarketError, Receipt

__all__ = ["Cluster", "InvalidInput", "Job", "Market", "MarketError", "Receipt"]
