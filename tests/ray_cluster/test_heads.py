"""A buyer's Ray head: what is said where it cannot run."""

from pathlib import Path

import pytest

from ray_cluster import heads
from ray_cluster.agent import sandbox
from ray_cluster.errors import Refusal


def test_without_a_sandbox_no_head_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine without bubblewrap a head is refused with what to install, and nothing is started or written."""
    monkeypatch.setattr(sandbox.shutil, "which", lambda _: None)
    spec = heads.HeadSpec(
        cluster_id="cl_1",
        folder=tmp_path / "cl_1",
        ip="127.0.0.2",
        ray_token="t",
        market_url="http://127.0.0.1:9",
        market_key="m",
        warden_key="w",
        node_types={},
        max_nodes=1,
        idle_timeout_seconds=5,
    )
    with pytest.raises(Refusal, match="apt install bubblewrap"):
        heads.start(spec, {})
    assert list(tmp_path.iterdir()) == []
