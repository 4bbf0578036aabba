"""Who this device is: an Ed25519 key that never leaves the state directory, and the lock that keeps it used once."""

import base64
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ray_cluster.errors import Conflict, InvalidInput

DEFAULT_STATE_DIR = Path("~/.local/share/spare/device")
KEY_FILE = "key.pem"
LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class Identity:
    """A device's key pair."""

    private_key: Ed25519PrivateKey

    @property
    def public_key(self) -> str:
        """The raw public key, base64."""
        return base64.b64encode(self.private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()

    def sign(self, message: bytes) -> str:
        """Return the base64 Ed25519 signature over ``message``."""
        return base64.b64encode(self.private_key.sign(message)).decode()


def canonical(body: Mapping[str, object]) -> bytes:
    """Return the bytes that are signed for a JSON body: sorted keys, no spaces."""
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def verify(public_key: str, signature: str, message: bytes) -> bool:
    """Tell whether ``signature`` (base64) over ``message`` was made by the key ``public_key`` (base64, raw)."""
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        key.verify(base64.b64decode(signature, validate=True), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def load_or_create(state_dir: Path) -> Identity:
    """Return this device's identity, made on the first call; the key file is readable by its owner only (0600)."""
    prepare(state_dir)
    path = state_dir / KEY_FILE
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        draft = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        draft.rename(path)
    return _read_key(path)


def _read_key(path: Path) -> Identity:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path.chmod(0o600)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise InvalidInput(
            f"the device key in {path} is damaged", f"move it away to enrol as a new device: mv {path} {path}.old"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(f"the device key in {path} is not an Ed25519 key", f"mv {path} {path}.old")
    return Identity(key)


def prepare(state_dir: Path) -> None:
    """Make the state directory, open to its owner only; raises InvalidInput when that is impossible."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        state_dir.chmod(0o700)
    except OSError as error:
        raise InvalidInput(f"cannot use {state_dir}: {error.strerror}", "choose another with --state-dir") from error


@contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state directory; raises Conflict while another agent of this user holds it."""
    prepare(state_dir)
    with (state_dir / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise Conflict(
                f"this device is already joined: process {holder} uses {state_dir}",
                "stop that one first (Ctrl-C), or give this one its own --state-dir",
            ) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
