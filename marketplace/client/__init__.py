"""What a notebook loads: no server code, no database."""

from marketplace.client.cluster import Cluster, Job
from marketplace.client.http import Api, MarketError
from marketplace.client.market import Market
from marketplace.client.receipt import Receipt

__all__ = ["Api", "Cluster", "Job", "Market", "MarketError", "Receipt"]
