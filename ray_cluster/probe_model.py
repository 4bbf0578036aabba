"""A small ONNX network (convolution, then matrix products) with weights that every machine derives alike from a seed.

Weights and inputs are multiples of 1/128 taken from SHA-256, not from a random generator whose stream may change
between versions: the same seed gives the same bytes everywhere.
"""

import hashlib

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

IMAGE_PIXELS = 64
CHANNELS = 32
FEATURES = 512
OPSET = 17
IR_VERSION = 8

FLOPS = (
    2 * IMAGE_PIXELS**2 * CHANNELS * 3 * 9  # first convolution, 3×3 over 3 channels
    + 2 * IMAGE_PIXELS**2 * CHANNELS * CHANNELS * 9  # second convolution, 3×3 over all channels
    + 2 * FEATURES * FEATURES * (CHANNELS * IMAGE_PIXELS**2 // FEATURES)  # matrix product over the rows
)
"""Floating-point operations of one run (a multiply and an add are two)."""


def dyadic(label: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return float32 values in [-1, 1), multiples of 1/128, derived from ``label`` alone."""
    size = int(np.prod(shape))
    blocks = (hashlib.sha256(f"{label}:{block}".encode()).digest() for block in range(-(-size // 32)))
    signed = np.frombuffer(b"".join(blocks)[:size], dtype=np.int8)
    return (signed.astype(np.float32) / np.float32(128)).reshape(shape)


def probe_input(seed: str) -> NDArray[np.float32]:
    """Return the input tensor ``[1, 3, 64, 64]`` for a seed."""
    return dyadic(f"input:{seed}", (1, 3, IMAGE_PIXELS, IMAGE_PIXELS))


def probe_model(seed: str = "reference") -> bytes:
    """Return a checked ONNX model: input ``x`` float32 ``[1, 3, 64, 64]`` → output ``y`` float32 ``[256, 512]``."""
    rows = CHANNELS * IMAGE_PIXELS**2 // FEATURES
    weights = {
        "first": dyadic(f"first:{seed}", (CHANNELS, 3, 3, 3)),
        "second": dyadic(f"second:{seed}", (CHANNELS, CHANNELS, 3, 3)) / np.float32(16),
        "mix": dyadic(f"mix:{seed}", (FEATURES, FEATURES)) / np.float32(16),
    }
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    initializers.append(numpy_helper.from_array(np.array([rows, FEATURES], dtype=np.int64), "shape"))
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["e"]),
        helper.make_node("MatMul", ["e", "mix"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "spare-probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, IMAGE_PIXELS, IMAGE_PIXELS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, FEATURES])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
