"""Where wardens report what they saw."""

from fastapi import APIRouter
from pydantic import BaseModel

from billing.ids import now_utc
from marketplace import clusters, readings
from marketplace.api.doors import InSession, Warden
from marketplace.errors import Forbidden

router = APIRouter(prefix="/v1/warden", tags=["warden"])


class Stored(BaseModel):
    """How much of a report was kept, and which nodes need no more checks: their leases are over."""

    readings: int
    probes: int
    over: list[str]


@router.post("/readings")
def report(body: readings.Report, session: InSession, caller: Warden) -> Stored:
    """Keep a report of one's own cluster; sending it again changes nothing."""
    if body.cluster_id != caller.cluster_id:
        raise Forbidden("a warden reports its own cluster alone")
    clusters.cluster(session, body.cluster_id)
    readings.store(session, body, at=now_utc())
    return Stored(readings=len(body.readings), probes=len(body.probes), over=readings.over(session, body))
