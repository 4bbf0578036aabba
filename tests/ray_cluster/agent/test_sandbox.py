"""The sandbox: what its command line names, and what really is inside."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_cluster.agent import ray_start, sandbox
from ray_cluster.agent.node import Lease
from ray_cluster.errors import InvalidInput


def inside(script: str) -> str:
    done = sandbox.run([sys.executable, "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_command_line_names_no_home_and_nothing_of_the_provider(
    lease: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No home directory and no variable of the provider's enters; the network is shared, as documented."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "provider-secret")
    one = lease()
    words = sandbox.arguments(ray_start.box(one), ray_start.command(one))
    bound = [words[at + 1] for at, word in enumerate(words) if word == "--ro-bind"]
    homes = {str(Path.home()), "/home", "/root", "/", "/etc", "/var", "/proc", "/sys", "/run"}
    assert not homes & set(bound)
    assert "--bind" not in words
    assert "--dev-bind" not in words
    assert "provider-secret" not in " ".join(words)
    assert {"--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--clearenv"} <= set(words)
    assert "--unshare-net" not in words


def test_a_python_that_holds_the_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Showing this Python must never show the home directory with it."""
    monkeypatch.setattr(sys, "prefix", str(Path.home()))
    with pytest.raises(InvalidInput, match="home directory"):
        sandbox.box_of_this_machine()


def test_inside_there_is_no_file_of_the_provider(tmp_path: Path) -> None:
    """Home and temporary directories are empty, system and Python are read-only, and no secret of /etc is there."""
    script = f"""
import os, pathlib
print(os.listdir(os.environ["HOME"]), sorted(os.listdir("/tmp")), os.path.exists({str(tmp_path)!r}))
print([p for p in ("/etc/shadow", "/etc/ssh", "/var", "/sys", "/mnt") if os.path.exists(p)])
for place in ("/usr/x", {sys.prefix!r} + "/x", "/etc/passwd"):
    try:
        open(place, "a"); print("wrote", place)
    except OSError:
        pass
"""
    # A Python that is installed below /tmp is shown there, and nothing else.
    shown = sorted({path.parts[2] for path in sandbox.python_paths() if path.is_relative_to("/tmp")})
    assert inside(script) == f"[] {shown} False\n[]"


def test_inside_there_is_no_process_of_the_provider() -> None:
    """Only the sandbox's own processes exist, without capabilities, under another name of the machine."""
    script = """
import os, socket
print(len([name for name in os.listdir("/proc") if name.isdigit()]), os.getuid(), socket.gethostname())
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd"))])
"""
    assert inside(script) == "2 1000 spare\n['0000000000000000', '0000000000000000']"


def test_inside_there_is_no_variable_of_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is built anew from a short list."""
    monkeypatch.setenv("SECRET_OF_MINE", "1")
    names = inside("import os; print(' '.join(sorted(os.environ)))").split()
    assert set(names) - {"PWD", "LC_CTYPE"} == set(sandbox.inner_environment())


def test_no_descriptor_of_ours_is_inherited(tmp_path: Path) -> None:
    """A file this program has open cannot be read through an inherited descriptor."""
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        links = inside(
            "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') "
            "if os.path.exists(f'/proc/self/fd/{n}')])"
        )
    assert "secret" not in links
