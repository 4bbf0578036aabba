"""The whole market on one machine, as the demo and the end-to-end tests start and end it."""

import subprocess
import sys
from pathlib import Path

from marketplace.demo.local_market import LocalDevice, LocalMarket, wait_for

# Leaves only once the other one has been asked as well; asked twice, it fails.
DEVICE = """
import pathlib, signal, sys, time
mine, other, ready = map(pathlib.Path, sys.argv[1:])
signal.signal(signal.SIGINT, lambda *_: mine.touch(exist_ok=False))
ready.touch()
while not (mine.exists() and other.exists()):
    time.sleep(0.01)
"""


def test_devices_leave_side_by_side(tmp_path: Path) -> None:
    """A market that stops asks all its devices to leave, each once, before it waits for any."""
    market = LocalMarket(tmp_path, 0)
    for mine, other in (("a", "b"), ("b", "a")):
        ready = tmp_path / f"{mine}.ready"
        words = [sys.executable, "-S", "-c", DEVICE, str(tmp_path / mine), str(tmp_path / other), str(ready)]
        process = subprocess.Popen(words, start_new_session=True)
        market.devices.append(LocalDevice(mine, process, tmp_path / f"{mine}.log"))
        wait_for(ready.exists, 20, mine, poll_seconds=0.01)
    market.stop()
    assert [device.process.returncode for device in market.devices] == [0, 0]
