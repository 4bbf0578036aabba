"""Every table of the market in one import, for migrations."""

from marketplace.accounts import Account, ApiKey
from marketplace.bids import Bid
from marketplace.clusters import Cluster, ClusterEvent
from marketplace.devices import Device, Invite
from marketplace.exchange import Tick
from marketplace.jobs import Job
from marketplace.leases import Lease
from marketplace.offers import Ask
from marketplace.readings import ProbeRow, ReadingRow, WardenSeen
from marketplace.settlement import UsageWindow

__all__ = [
    "Account",
    "ApiKey",
    "Ask",
    "Bid",
    "Cluster",
    "ClusterEvent",
    "Device",
    "Invite",
    "Job",
    "Lease",
    "ProbeRow",
    "ReadingRow",
    "Tick",
    "UsageWindow",
    "WardenSeen",
]
