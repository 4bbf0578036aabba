"""PURE: where the tiles of a picture lie, cutting them out and pasting them back.

A tile is a core, which it answers for, and a halo around it, which the network needs to see and which is thrown
away afterwards. A network of 18 convolutions of 3 × 3 sees 18 pixels far, so a halo of 18 makes every core come out
as if the whole picture had been enlarged at once. At the picture's border the halo is clipped rather than filled:
the network then pads the tile where it would have padded the picture.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # [height, width, 3], RGB

CORE_PIXELS = 128
HALO_PIXELS = 18


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels; right and bottom are the first ones outside it."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Tile:
    """What a tile answers for (core) and what it is computed from (seen)."""

    core: Box
    seen: Box


def split(width: int, height: int, *, core: int = CORE_PIXELS, halo: int = HALO_PIXELS) -> tuple[Tile, ...]:
    """Tiles whose cores cover a picture exactly once, row by row; raises ValueError for an empty picture or tile."""
    if width < 1 or height < 1 or core < 1 or halo < 0:
        raise ValueError(f"cannot split {width} × {height} pixels into tiles of {core} with a halo of {halo}")
    return tuple(
        _tile(Box(left, top, min(left + core, width), min(top + core, height)), width, height, halo)
        for top in range(0, height, core)
        for left in range(0, width, core)
    )


def cut(picture: Pixels, tile: Tile) -> Pixels:
    """A copy of what the tile sees."""
    seen = tile.seen
    return picture[seen.top : seen.bottom, seen.left : seen.right].copy()


def trim(enlarged: Pixels, tile: Tile, *, scale: int) -> Pixels:
    """A copy of the core of an enlarged tile, its halo gone."""
    core, seen = tile.core, tile.seen
    rows = slice((core.top - seen.top) * scale, (core.bottom - seen.top) * scale)
    columns = slice((core.left - seen.left) * scale, (core.right - seen.left) * scale)
    return enlarged[rows, columns].copy()


def paste(canvas: Pixels, core: Pixels, tile: Tile, *, scale: int) -> None:
    """Writes an enlarged core into the enlarged picture; raises ValueError when it has another size than its place."""
    box = tile.core
    place = canvas[box.top * scale : box.bottom * scale, box.left * scale : box.right * scale]
    if place.shape != core.shape:
        raise ValueError(f"a tile of shape {core.shape} does not fit its place of shape {place.shape}")
    place[...] = core


def _tile(core: Box, width: int, height: int, halo: int) -> Tile:
    left, top = max(core.left - halo, 0), max(core.top - halo, 0)
    return Tile(core, Box(left, top, min(core.right + halo, width), min(core.bottom + halo, height)))
