"""A buyer's cluster and its jobs, from the buyer's chair."""

import time
from collections.abc import Iterator
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any

from billing.money import format_usd
from marketplace.client.http import Api, MarketError
from marketplace.client.receipt import Receipt

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

POLL_SECONDS = 0.5
FINISHED = ("SUCCEEDED", "FAILED", "STOPPED")


class Cluster:
    """One Ray cluster. Leaving its ``with`` block stops it, also after an error or Ctrl-C."""

    def __init__(self, api: Api, cluster_id: str) -> None:
        self._api = api
        self.id = cluster_id
        self._path = f"/v1/clusters/{cluster_id}"

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What Ray's Jobs tools take as ``--address``; the token is the market's key."""
        return f"{self._api.url}{self._path}/ray"

    def access(self) -> dict[str, str]:
        """Return ``head_address`` and ``ray_token``, for tools that speak to the head, such as ``ray status``."""
        found: dict[str, str] = self._api.call("GET", f"{self._path}/access")
        return found

    def status(self) -> dict[str, Any]:
        """Return the cluster's state, limits, nodes and what is committed, as the market has it now."""
        found: dict[str, Any] = self._api.call("GET", self._path)
        return found

    def why(self) -> dict[str, Any]:
        """Return what it waits for, with numbers, and what would help."""
        found: dict[str, Any] = self._api.call("GET", f"{self._path}/why")
        return found

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """Return what happened since an event's id."""
        found: list[dict[str, Any]] = self._api.call("GET", f"{self._path}/events", after=after)
        return found

    def wait_ready(self, timeout_seconds: float = 120) -> "Cluster":
        """Wait until the Ray head answers. Raises MarketError with the reason when it does not."""
        self._wait(("running",), timeout_seconds)
        return self

    def jobs(self) -> "JobSubmissionClient":
        """Return Ray's own JobSubmissionClient on this cluster."""
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {self._api.key}"})

    def submit(self, entrypoint: str, *, working_dir: str = "", **more: Any) -> "Job":
        """Submit a Ray job; ``working_dir`` is uploaded to the cluster."""
        self.wait_ready()
        client = self.jobs()
        runtime_env = {**more.pop("runtime_env", {}), **({"working_dir": working_dir} if working_dir else {})}
        return Job(self, client, client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env, **more))

    def receipt(self) -> Receipt:
        """Return what it cost so far, and why."""
        return Receipt(self._api.call("GET", f"{self._path}/receipt"))

    def stop(self, *, wait: bool = True, timeout_seconds: float = 120) -> Receipt:
        """Stop it; return the receipt, final when waited for. Stopping twice is harmless."""
        self._api.call("DELETE", self._path)
        if wait:
            self._wait(("stopped",), timeout_seconds)
        return self.receipt()

    def _wait(self, states: tuple[str, ...], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while (now := self.status())["state"] not in states:
            if now["state"] == "stopped" or time.monotonic() > deadline:
                why = self.why()["summary"]
                raise MarketError(f"the cluster is {now['state']} after {timeout_seconds:.0f} s: {why}")
            time.sleep(POLL_SECONDS)

    def __repr__(self) -> str:
        now = self.status()
        spent, budget = format_usd(now["committed_micros"]), format_usd(now["budget_micros"], 2)
        nodes = f"{now['nodes_joined']} nodes run, {now['nodes_waiting']} wait"
        return f"Cluster {self.id} {now['state']}: {nodes}; {spent} of {budget} spent or held"

    def _repr_html_(self) -> str:
        why = self.why()
        rows = "".join(
            f"<tr><td>{escape(event['at'][11:19])}</td><td>{escape(event['text'])}</td></tr>"
            for event in self.events()[-12:]
        )
        return f"<p><b>{escape(repr(self))}</b><br>{escape(why['summary'])}</p><table>{rows}</table>"


class Job:
    """A Ray job on a cluster."""

    def __init__(self, cluster: Cluster, client: "JobSubmissionClient", submission_id: str) -> None:
        self.cluster = cluster
        self.id = submission_id
        self._client = client

    def status(self) -> str:
        """Return Ray's word for its state."""
        return str(self._client.get_job_status(self.id).value)

    def logs(self) -> str:
        """Return what it has printed so far."""
        return str(self._client.get_job_logs(self.id))

    def watch(self, poll_seconds: float = POLL_SECONDS) -> Iterator[str]:
        """Yield its state at every look until it has finished."""
        while (state := self.status()) not in FINISHED:
            yield state
            time.sleep(poll_seconds)
        yield state

    def result(self, timeout_seconds: float = 3600) -> str:
        """Wait for it and return its output. Raises MarketError with the end of its log when it failed."""
        deadline = time.monotonic() + timeout_seconds
        for state in self.watch():
            if state not in FINISHED and time.monotonic() > deadline:
                raise MarketError(
                    f"job {self.id} is {state} after {timeout_seconds:.0f} s", self.cluster.why()["summary"]
                )
        if self.status() != "SUCCEEDED":
            raise MarketError(f"job {self.id} {self.status()}:\n{self.logs()[-2000:]}")
        return self.logs()

    def __repr__(self) -> str:
        return f"Job {self.id} {self.status()}"
