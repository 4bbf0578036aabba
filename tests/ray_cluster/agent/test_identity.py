"""The device's key: kept, private, and used by one agent only."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_cluster.agent.identity import canonical, load_or_create, only_one, verify
from ray_cluster.errors import Conflict, InvalidInput


@given(message=st.binary(max_size=200), other=st.binary(max_size=200))
def test_signatures_round_trip(tmp_path_factory: pytest.TempPathFactory, message: bytes, other: bytes) -> None:
    """A signature holds for its message and for no other."""
    key = load_or_create(tmp_path_factory.getbasetemp() / "device")
    signature = key.sign(message)
    assert verify(key.public_key, signature, message)
    assert verify(key.public_key, signature, other) == (other == message)


def test_garbage_is_no_signature(tmp_path: Path) -> None:
    """Malformed keys and signatures are refused, not raised."""
    key = load_or_create(tmp_path)
    assert not verify(key.public_key, "not base64!", b"x")
    assert not verify("AAAA", key.sign(b"x"), b"x")


def test_the_key_is_kept_and_private(tmp_path: Path) -> None:
    """The same directory is the same device; nobody but its owner can read the key."""
    state_dir = tmp_path / "device"
    assert load_or_create(state_dir).public_key == load_or_create(state_dir).public_key
    assert stat.S_IMODE((state_dir / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
    assert sorted(path.name for path in state_dir.iterdir()) == ["key.pem"]


def test_a_damaged_key_is_named(tmp_path: Path) -> None:
    """A damaged key file is an error with the command that mends it, never a silent new identity."""
    (tmp_path / "key.pem").write_text("garbage")
    with pytest.raises(InvalidInput) as caught:
        load_or_create(tmp_path)
    assert "mv " in caught.value.hint


def test_canonical_json_does_not_depend_on_order() -> None:
    """What is signed is the same bytes however the body was built."""
    body = {"b": 1, "a": {"d": 2, "c": "é"}}
    assert canonical(body) == canonical(json.loads(json.dumps(body))) == b'{"a":{"c":"\\u00e9","d":2},"b":1}'


def test_one_identity_serves_once(tmp_path: Path) -> None:
    """A second agent with the same identity is refused while the first lives, and welcome afterwards."""
    script = f"""
import sys
from pathlib import Path
from ray_cluster.agent.identity import only_one
with only_one(Path({str(tmp_path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Conflict, match=f"process {other.pid}"), only_one(tmp_path):
            pass
        other.kill()
    with only_one(tmp_path):
        pass
