"""A challenge: a fresh seed makes the probe model's input, and a few rows of its output are the answer."""

import base64
import binascii
import hashlib
from functools import lru_cache

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ray_cluster import probe_model

ROWS = 4
ABSOLUTE_TOLERANCE = 1e-4
RELATIVE_TOLERANCE = 1e-3
"""Sums of some thousand float32 products differ by up to this between honest processors; a substitute differs more."""


@lru_cache(maxsize=1)
def _session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(probe_model.probe_model(), options, providers=["CPUExecutionProvider"])


def answer(seed: str) -> bytes:
    """Return the answer to a challenge: ``ROWS`` rows of float32, chosen by the seed, as bytes."""
    return _rows(seed).astype("<f4").tobytes()


def _rows(seed: str) -> NDArray[np.float32]:
    output = _session().run(None, {"x": probe_model.probe_input(seed)})[0]
    digest = hashlib.sha256(f"rows:{seed}".encode()).digest()
    chosen = [int.from_bytes(digest[2 * i : 2 * i + 2]) % output.shape[0] for i in range(ROWS)]
    rows: NDArray[np.float32] = output[chosen]
    return rows


def judge(seed: str, encoded: str) -> str:
    """Return why a base64 answer is wrong, or an empty string when it is right."""
    try:
        got = np.frombuffer(base64.b64decode(encoded, validate=True), dtype="<f4")
    except (ValueError, binascii.Error):
        return "the answer is not float32 data"
    expected = _rows(seed).ravel()
    if got.shape != expected.shape:
        return f"{got.size} values instead of {expected.size}"
    # Written so that a NaN fails.
    if not np.all(np.abs(got - expected) <= ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * np.abs(expected)):
        return f"off by {np.nanmax(np.abs(got - expected)):.3g}"
    return ""
