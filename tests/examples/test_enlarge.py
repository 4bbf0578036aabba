"""The job: no seams, clear refusals, and a real run on Ray that survives a lost device."""

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pixels
import printed
import pytest
import seams
import tiles
from PIL import Image


@pytest.fixture(scope="module")
def model(folder: Path) -> bytes:
    """The real model."""
    return pixels.read_model(folder / "model.onnx")


def tiled(model: bytes, picture: tiles.Pixels, *, core: int, halo: int = tiles.HALO_PIXELS) -> tiles.Pixels:
    """The picture enlarged tile by tile, without Ray."""
    height, width, _ = picture.shape
    canvas = np.zeros((height * 4, width * 4, 3), np.uint8)
    for tile in tiles.split(width, height, core=core, halo=halo):
        enlarged = tiles.trim(pixels.enlarge_pixels(model, tiles.cut(picture, tile)), tile, scale=4)
        tiles.paste(canvas, enlarged, tile, scale=4)
    return canvas


@pytest.mark.parametrize(("width", "height", "core"), [(70, 50, 32), (37, 91, 16), (65, 64, 64), (5, 3, 2), (1, 1, 1)])
def test_tiled_equals_untiled(folder: Path, model: bytes, width: int, height: int, core: int) -> None:
    """The reassembled picture is the picture that one device would have made, bit by bit."""
    picture = pixels.read_picture(folder / "photo.png", crop=(width, height))
    untiled = pixels.enlarge_pixels(model, picture)
    assert seams.compare(tiled(model, picture, core=core), untiled) == seams.Seams(untiled.size, 0, 0)


def test_the_seam_check_sees_a_halo_that_is_too_small(folder: Path, model: bytes) -> None:
    """One pixel of halo less than the network needs is noticed: the check can fail."""
    picture = pixels.read_picture(folder / "photo.png", crop=(96, 96))
    untiled = pixels.enlarge_pixels(model, picture)
    assert seams.compare(tiled(model, picture, core=32, halo=tiles.HALO_PIXELS - 1), untiled).differing > 0


def test_one_process_loads_the_model_once(model: bytes) -> None:
    """Chunks carry the model as equal bytes, not the same object: still one session."""
    assert pixels.open_session(model) is pixels.open_session(bytes(bytearray(model)))


def test_a_picture_larger_than_the_limit_is_refused(folder: Path) -> None:
    """A huge picture ends before it is decoded, with what to do."""
    with pytest.raises(ValueError, match="use --crop or --limit-pixels"):
        pixels.read_picture(folder / "photo.png", limit_pixels=1000)


def test_grey_and_transparent_pictures_become_rgb(tmp_path: Path) -> None:
    """Whatever Pillow reads has three colours afterwards."""
    for mode in ("L", "RGBA", "P", "1"):
        Image.new(mode, (4, 3)).save(tmp_path / "any.png")
        assert pixels.read_picture(tmp_path / "any.png").shape == (3, 4, 3)


@pytest.fixture
def ray_apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any Ray started by the test keeps its files and its token away from every other Ray of this machine."""
    home = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Ray puts sockets below it
    monkeypatch.setenv("RAY_TMPDIR", home)
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    yield
    shutil.rmtree(home, ignore_errors=True)


def command(folder: Path, script: str, *options: str) -> list[str]:
    """One of the scripts, as a job starts it."""
    output = str(folder / "out.png")
    return [sys.executable, script, "--model", "model.onnx", "--picture", "photo.png", "--output", output, *options]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--picture", "enlarge.py"), "enlarge: enlarge.py is not a picture that can be read"),
        (("--picture", "missing.png"), "enlarge: missing.png is not a picture that can be read"),
        (("--model", "photo.png"), "enlarge: photo.png is not an ONNX model that enlarges pictures"),
        (("--model", "missing.onnx"), "enlarge: missing.onnx cannot be read"),
        (("--crop", "5000x10"), "enlarge: cannot crop 5000x10 out of a picture of 1000x872"),
    ],
)
def test_unusable_input_is_one_line(folder: Path, options: tuple[str, ...], reason: str) -> None:
    """A wrong file ends the job before a device is asked for, with one line that names it."""
    ended = subprocess.run(command(folder, "enlarge.py", *options), cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith(reason)
    assert ended.stderr.count("\n") == 1


@pytest.mark.e2e
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("ray_apart")
def test_a_job_on_ray_makes_the_picture(folder: Path) -> None:
    """The script on a Ray of its own: every tile reported once, the PNG in file and log alike, no seams."""
    crop = ("--crop", "200x150")
    job = command(folder, "enlarge.py", *crop, "--tile", "64", "--print-png")
    ended = subprocess.run(job, cwd=folder, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    facts = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert [(fact["done"], fact["total"]) for fact in facts[:-1]] == [(n, 12) for n in range(1, 13)]
    png = printed.read(ended.stdout)
    assert png == (folder / "out.png").read_bytes()
    assert Image.open(BytesIO(png)).size == (800, 600)

    check = command(folder, seams.__file__, *crop)
    ended = subprocess.run(check, cwd=folder, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "0 of 1440000 values differ, by at most 0 levels\n")
    Image.new("RGB", (800, 600)).save(folder / "out.png")
    assert subprocess.run(check, cwd=folder, capture_output=True).returncode == 1


@pytest.mark.e2e
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("ray_apart")
def test_a_lost_device_costs_nothing_but_time(folder: Path, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node that finished the first tile is killed with work on it: the other one makes the same picture."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    job = command(folder, "enlarge.py", "--crop", "384x256", "--tile", "64", "--print-png")
    log, lost = "", ""
    try:
        nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1))}
        running = subprocess.Popen(job, cwd=folder, text=True, stdout=subprocess.PIPE)
        for line in running.stdout or ():
            log += line
            if line.startswith('{"done": 1,'):
                lost = json.loads(line)["node"]
                cluster.remove_node(nodes[lost], allow_graceful=False)
        assert running.wait(timeout=30) == 0, log
    except BaseException:
        running.kill()
        raise
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    finishers = [json.loads(line)["node"] for line in log.splitlines() if line.startswith('{"done"')]
    assert len(finishers) == 24
    assert finishers.count(lost) < 24 / 2
    untiled = pixels.enlarge_pixels(model, pixels.read_picture(folder / "photo.png", crop=(384, 256)))
    assert np.array_equal(np.asarray(Image.open(BytesIO(printed.read(log)))), untiled)
