"""The sandbox around a buyer's code: bubblewrap with an empty home, an empty environment and this Python read-only.

What is inside: /usr, this Python and its packages (read-only), a /tmp, /home and /dev/shm in memory, processes of its
own. What is not: any file, environment variable or process of the provider's. Two things are shared in this version,
and a provider should know them: the NETWORK is the device's own, so the code inside can reach whatever the device can
reach, its local network and services on its loopback included; and there is no hard cap on cores or memory.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray_cluster.errors import InvalidInput

USER_ID = 1000
HOME = "/home/spare"
SHARED, TEMPORARY = "/dev/shm", "/tmp"  # noqa: S108  inside the sandbox nobody else writes there
SMALL_FILES: Mapping[str, str] = {
    "/etc/passwd": f"spare:x:{USER_ID}:{USER_ID}::{HOME}:/bin/sh\n",
    "/etc/group": f"spare:x:{USER_ID}:\n",
    "/etc/hosts": "127.0.0.1 localhost spare\n::1 localhost\n",
}
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/resolv.conf", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs")
_SYSTEM_DIRS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Box:
    """What one sandbox may see and use; sizes in bytes, both held in memory."""

    readable: tuple[tuple[str, str], ...]  # (path outside, path inside), read-only
    links: tuple[tuple[str, str], ...]  # (target, path inside)
    writable: tuple[tuple[str, str], ...] = ()  # (path outside, path inside); nothing by default
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    die_with_parent: bool = True  # False for what must outlive the one who starts it
    shm_bytes: int = 64 * _MIB
    tmp_bytes: int = 256 * _MIB
    disable_userns: bool = True  # bubblewrap 0.8 or newer: no user namespaces inside, a smaller kernel to attack


def arguments(box: Box, command: Sequence[str], data: Mapping[str, int] | None = None) -> list[str]:
    """PURE: return the complete ``bwrap`` command line; ``data`` maps a small file inside to an open descriptor."""
    words = ["bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--die-with-parent"] if box.die_with_parent else []
    words += ["--cap-drop", "ALL", "--uid", str(USER_ID), "--gid", str(USER_ID)]
    words += ["--disable-userns"] if box.disable_userns else []
    words += ["--hostname", "spare", "--proc", "/proc", "--dev", "/dev"]
    words += ["--size", str(box.shm_bytes), "--tmpfs", SHARED, "--size", str(box.tmp_bytes), "--tmpfs", TEMPORARY]
    for path in ("/home", "/root", "/run"):
        words += ["--size", str(16 * _MIB), "--tmpfs", path]
    words += ["--dir", HOME]
    for target, inside in box.links:
        words += ["--symlink", target, inside]
    for outside, inside in box.readable:
        words += ["--ro-bind", outside, inside]
    for outside, inside in box.writable:
        words += ["--bind", outside, inside]
    for inside, descriptor in (data or {}).items():
        words += ["--ro-bind-data", str(descriptor), inside]
    words += ["--clearenv"]
    for name, value in sorted((inner_environment() | dict(box.environment)).items()):
        words += ["--setenv", name, value]
    return [*words, "--chdir", HOME, "--", *command]


def inner_environment() -> dict[str, str]:
    """Return the whole environment inside, before Ray's own settings: nothing of the provider's."""
    return {
        "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin",
        "HOME": HOME,
        "USER": "spare",
        "LANG": "C.UTF-8",
        "TMPDIR": TEMPORARY,
        "PYTHONNOUSERSITE": "1",
    }


def box_of_this_machine(
    environment: Mapping[str, str] | None = None, *, shm_bytes: int = 64 * _MIB, tmp_bytes: int = 256 * _MIB
) -> Box:
    """Look at this machine and return its sandbox; raises InvalidInput when Python lies where it cannot be shown."""
    links, readable = [], [("/usr", "/usr")]
    for name in _SYSTEM_DIRS:
        path = Path(name)
        if path.is_symlink():
            links.append((str(path.readlink()), name))
        elif path.is_dir():
            readable.append((name, name))
    readable += [(name, name) for name in _SYSTEM_FILES if Path(name).exists()]
    readable += [pair for path in python_paths() for pair in _pairs(path)]
    return Box(
        readable=tuple(dict.fromkeys(readable)),
        links=tuple(links),
        environment=dict(environment or {}),
        shm_bytes=shm_bytes,
        tmp_bytes=tmp_bytes,
        disable_userns=bubblewrap_version() >= (0, 8),
    )


def python_paths() -> tuple[Path, ...]:
    """Return what this Python needs: its prefixes, and this package when it is installed from a checkout."""
    package = Path(__file__).resolve().parent.parent
    paths = [Path(sys.prefix), Path(sys.base_prefix), package]
    outside = [path for path in dict.fromkeys(paths) if not path.is_relative_to("/usr")]
    return tuple(path for path in outside if not any(path != other and path.is_relative_to(other) for other in outside))


def _pairs(path: Path) -> list[tuple[str, str]]:
    real = path.resolve()
    if real == Path("/") or Path.home().resolve().is_relative_to(real):
        raise InvalidInput(
            f"Python is installed in {path}, which holds your home directory",
            "make an environment of its own: python3 -m venv ~/spare && ~/spare/bin/pip install spare",
        )
    return [(str(real), str(inside)) for inside in dict.fromkeys((real, path))]


def bubblewrap_version() -> tuple[int, ...]:
    """Return the installed bubblewrap's version, or () when there is none."""
    if shutil.which("bwrap") is None:
        return ()
    answer = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=False, timeout=10)
    digits = answer.stdout.rsplit(" ", 1)[-1].strip().split(".")
    return tuple(int(part) for part in digits if part.isdigit())


def open_small_files() -> dict[str, int]:
    """Return the small files of a sandbox as descriptors in memory; the caller passes them on, then closes them."""
    descriptors = {}
    for inside, content in SMALL_FILES.items():
        descriptor = os.memfd_create("spare")
        os.write(descriptor, content.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        descriptors[inside] = descriptor
    return descriptors


def hide(words: Sequence[str]) -> tuple[list[str], int]:
    """Return a command line that does not show its options, which hold tokens, to other users, and their descriptor."""
    end = words.index("--")
    descriptor = os.memfd_create("spare")
    os.write(descriptor, b"".join(word.encode() + b"\0" for word in words[1:end]))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return [words[0], "--args", str(descriptor), *words[end:]], descriptor


def run(command: Sequence[str], *, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
    """Run one short command in a sandbox of its own and return what it said."""
    data = open_small_files()
    try:
        return subprocess.run(
            arguments(box_of_this_machine(), command, data),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            pass_fds=tuple(data.values()),
            start_new_session=True,  # no terminal to push input into
        )
    finally:
        for descriptor in data.values():
            os.close(descriptor)
