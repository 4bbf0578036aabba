"""Reads the picture and the model, and enlarges pixels with it: all that is needed besides Ray."""

from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import onnxruntime
from PIL import Image
from tiles import Pixels

LIMIT_PIXELS = 1_000_000  # the whole picture at once needs about 0.8 KB of memory a pixel


def read_picture(path: Path, *, crop: tuple[int, int] | None = None, limit_pixels: int = LIMIT_PIXELS) -> Pixels:
    """The picture as RGB, or the middle of it, ``crop`` = (width, height); raises ValueError when it is unusable."""
    try:
        with Image.open(path) as image:
            area = _middle(image.size, crop or image.size)
            count = (area[2] - area[0]) * (area[3] - area[1])
            if count > limit_pixels:
                raise ValueError(f"{path} has {count} pixels, more than {limit_pixels}: use --crop or --limit-pixels")
            return np.asarray(image.convert("RGB").crop(area), np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a picture that can be read: give a PNG or JPEG file") from error


def read_model(path: Path) -> bytes:
    """The bytes of a model that enlarges pictures; raises ValueError when it is something else."""
    try:
        model = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: make it with `python fetch.py FOLDER`") from error
    try:
        scale_of(model)
    except Exception as error:  # onnxruntime's errors share no base class
        raise ValueError(f"{path} is not an ONNX model that enlarges pictures") from error
    return model


@lru_cache(maxsize=1)
def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """The model ready to run on one thread; kept, so that a process loads it once."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong is raised; don't print it too
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def enlarge_pixels(model: bytes, pixels: Pixels) -> Pixels:
    """The enlarged pixels, rounded to whole levels."""
    session = open_session(model)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    (enlarged,) = session.run(None, {session.get_inputs()[0].name: planes})
    levels = np.rint(np.clip(enlarged[0], 0, 1) * np.float32(255)).astype(np.uint8)
    return cast(Pixels, np.ascontiguousarray(levels.transpose(1, 2, 0)))


def scale_of(model: bytes) -> int:
    """How many times larger the model makes a side; raises ValueError when it does not enlarge both alike."""
    height, width, colours = enlarge_pixels(model, np.zeros((8, 8, 3), np.uint8)).shape
    if height != width or height % 8 or height == 0 or colours != 3:
        raise ValueError(f"8 × 8 pixels became {width} × {height} in {colours} colours")
    return int(height // 8)


def _middle(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int, int, int]:
    (width, height), (wide, high) = size, crop
    if wide > width or high > height:
        raise ValueError(f"cannot crop {wide}x{high} out of a picture of {width}x{height}")
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
