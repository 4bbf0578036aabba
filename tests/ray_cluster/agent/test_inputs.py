"""What providers type and what markets answer: one line and a hint for whatever is wrong."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_cluster.agent import benchmark, enrol, facts, selftest
from ray_cluster.agent.identity import Identity, canonical, load_or_create, verify
from ray_cluster.agent.main import Options, run
from ray_cluster.agent.node import read_leases
from ray_cluster.agent.ray_start import command, environment, manual_command, memory_split
from ray_cluster.errors import ClusterError, Denied, InvalidInput, Outage, Refusal

FACTS = facts.Facts(1, 2 << 30, 0, 0, "linux", "3.11.7", "2.60.0")


@pytest.fixture
def key(tmp_path: Path) -> Identity:
    return load_or_create(tmp_path)


def answer(status: int, body: object) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: httpx.Response(status, json=body))


@pytest.mark.parametrize("text", ["", "ftp://x", "http://", "http://x/y", "http://x:port", "http://[::1", "a b://c"])
def test_bad_addresses(text: str) -> None:
    """An address that cannot be a market's is refused with an example."""
    with pytest.raises(InvalidInput) as caught:
        enrol.parse_url(text)
    assert "https://" in caught.value.hint


def test_good_addresses() -> None:
    """A bare name means https; a trailing slash does not matter."""
    assert enrol.parse_url("spare.example/") == "https://spare.example"
    assert enrol.parse_url("http://127.0.0.1:8000") == "http://127.0.0.1:8000"
    assert enrol.parse_url("http://[::1]:8000") == "http://[::1]:8000"


@pytest.mark.parametrize("text", ["", "cheap", "-1", "nan", "inf", "1e9", "0.0000001", "1/2"])
def test_bad_prices(text: str) -> None:
    """A price that is no amount of whole micro-dollars is refused."""
    with pytest.raises(InvalidInput):
        enrol.parse_price_micros_per_hour(text)


@given(st.integers(0, enrol.PRICE_MICROS_MAX))
def test_prices_are_exact(micros: int) -> None:
    """Every whole number of micro-dollars is read exactly."""
    text = f"${micros // 10**6}.{micros % 10**6:06d}/h"
    assert enrol.parse_price_micros_per_hour(text) == micros


@given(st.text(max_size=12))
def test_memory_sizes_never_crash(text: str) -> None:
    """Any text is a size or a refusal."""
    with contextlib.suppress(InvalidInput):
        assert facts.parse_memory_bytes(text) >= 0


def test_the_offer_cannot_exceed_the_device() -> None:
    """Cores and memory that are not there cannot be sold."""
    real = facts.measure()
    assert facts.measure(1, 1 << 30) == facts.Facts(1, 1 << 30, 0, 0, "linux", real.python, "2.60.0")
    for cpus, memory_bytes in ((real.cpus + 1, None), (0, None), (None, real.memory_bytes + 1), (None, 5)):
        with pytest.raises(InvalidInput):
            facts.measure(cpus, memory_bytes)


def test_the_body_is_signed_whole(key: Identity) -> None:
    """The signature covers everything but itself."""
    body = enrol.request_body(key, FACTS, token="t", name="n", region="eu", score_millis=1, reserve_micros_per_hour=2)
    signature = str(body.pop("signature"))
    assert verify(key.public_key, signature, canonical(body))


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (401, {"detail": "token used up", "hint": "ask for another"}, Denied, "token used up"),
        (409, {"detail": "Ray 2.59.0 does not match 2.60.0", "hint": "pip install ray==2.60.0"}, Refusal, "2.59.0"),
        (422, {"title": "bad\nregion"}, Refusal, "bad region"),
        (404, {}, InvalidInput, "no Spare market"),
        (500, "oops", Outage, "HTTP 500"),
        (200, {"hello": 1}, Outage, "does not answer like"),
    ],
)
def test_what_the_market_refuses_is_one_line_with_its_hint(
    status: int, body: object, kind: type[ClusterError], says: str
) -> None:
    """The market's own reason and hint reach the provider."""
    with pytest.raises(kind) as caught:
        enrol.enrol("http://m", {}, transport=answer(status, body))
    assert says in caught.value.message
    assert "\n" not in caught.value.message
    if isinstance(body, dict) and "hint" in body:
        assert caught.value.hint == body["hint"]


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"url": "ftp://x"}, 2, "not a market's address"),
        ({"price": "cheap"}, 2, "cannot read the price"),
        ({"memory": "lots"}, 2, "cannot read the memory size"),
        ({"cpus": 10_000}, 2, "--cpus 10000"),
        ({"url": "http://127.0.0.1:9"}, 1, "cannot reach the market"),
    ],
)
def test_joining_badly_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], code: int, says: str
) -> None:
    """Whatever is wrong, a pipe gets one JSON line with message and hint, and the exit status tells whose fault."""
    options = Options(**({"url": "http://127.0.0.1:9", "state_dir": tmp_path} | change))  # type: ignore[arg-type]
    assert run(options) == code
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert said["event"] == "error"
    assert says in said["message"]
    assert said["hint"]


@pytest.mark.parametrize(
    "change",
    [
        {"node_id": "../x"},
        {"lease_id": ""},
        {"state": "walk"},
        {"cpus": -1},
        {"cpus": True},
        {"memory_bytes": 1.5},
        {"head_address": "x; rm -rf /"},
        {"node_ip": "--head"},
        {"ray_token": "a b"},
        {"resources": {"x": "y"}},
        {"resources": [1]},
        {"labels": 3},
    ],
)
def test_malformed_leases_are_refused_whole(row: Callable[..., dict[str, object]], change: dict[str, object]) -> None:
    """One bad field and the frame counts for nothing."""
    with pytest.raises(InvalidInput):
        read_leases({"leases": [row(node_id="ok"), row(**change)]})


atoms = st.none() | st.booleans() | st.integers() | st.text()
keys = st.sampled_from(["leases", "node_id", "state", "resources"])


@given(st.recursive(atoms, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner), max_leaves=8))
def test_any_frame_is_read_or_refused(value: object) -> None:
    """No frame, however odd, raises anything but a refusal."""
    with contextlib.suppress(InvalidInput):
        read_leases({"leases": value})


def test_the_ray_start_of_a_lease(row: Callable[..., dict[str, object]]) -> None:
    """The exact command: this cluster, this size, these resources, no usage statistics, its id in the environment."""
    (lease,) = read_leases({"leases": [row()]})
    words = command(lease)
    heap_bytes, store_bytes = memory_split(2 << 30)
    assert heap_bytes + store_bytes == 2 << 30
    assert words[1].endswith("/bin/ray")
    assert words[2:12] == [
        "start",
        "--address=127.0.0.1:1",
        "--node-ip-address=127.0.0.1",
        "--num-cpus=1",
        "--num-gpus=0",
        f"--memory={heap_bytes}",
        f"--object-store-memory={store_bytes}",
        '--resources={"class:cpu-1c-2g.eu.open": 1}',
        "--labels=spare.lease=ls_1",
        "--min-worker-port=0",
    ]
    assert {"--block", "--disable-usage-stats"} <= set(words)
    assert environment(lease) == {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "t" * 40,
        "RAY_CLOUD_INSTANCE_ID": "nd_1",
        "RAY_NODE_TYPE_NAME": "cpu-1c-2g.eu.open",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    (free,) = read_leases({"leases": [row(node_ip="")]})
    assert command(free) == [word for word in words if not word.startswith("--node-ip-address")]
    assert "t" * 40 not in repr(lease)
    assert manual_command(lease).startswith("bwrap ")
    assert manual_command(lease, sandboxed=False).startswith("env RAY_AUTH_MODE=token ")


def test_the_self_test_names_what_is_wrong(tmp_path: Path) -> None:
    """Each failed check says what was found and how to mend it; a good device passes them all."""
    good = selftest.run(facts.measure(), tmp_path, skew_ms=100)
    assert all(check.passed for check in good), good
    assert [check.name for check in good] == ["linux", "python", "ray", "sandbox", "memory", "disk", "clock"]
    bad = selftest.run(facts.Facts(1, 5, 0, 0, "linux", "3.11.7", "2.59.0"), tmp_path, sandboxed=False, skew_ms=60_000)
    failed = {check.name: check.mend for check in bad if not check.passed}
    assert set(failed) == {"ray", "memory", "clock"}
    assert "ray[default]==2.60.0" in failed["ray"]


@given(st.lists(st.integers(-10, 2_000), max_size=300), st.integers(1, 4))
def test_scores_are_whole_and_positive(finished_ns: list[int], threads: int) -> None:
    """Any timing gives a whole score of at least 1."""
    found = benchmark.score(finished_ns, flops=10**6, threads=threads, round_ns=100, rounds=9)
    assert found.score_millis >= 1
    assert found.spread_millis >= 0


def test_one_disturbed_round_does_not_change_the_score() -> None:
    """The median round counts."""
    steady = [at for at in range(5, 900, 10)]
    disturbed = [at for at in steady if not 300 <= at < 400]
    scores = [
        benchmark.score(times, flops=10**9, threads=1, round_ns=100, rounds=9).score_millis
        for times in (steady, disturbed)
    ]
    assert scores[0] == scores[1]


def test_the_benchmark_runs_apart() -> None:
    """The real benchmark gives a plausible score within five seconds and leaves no model in this process."""
    found = benchmark.run_apart(1, timeout_s=15)
    assert 10 < found.score_millis < 50_000
