"""Tile geometry: every pixel once, and the halo where the network needs it."""

import numpy as np
import pytest
import tiles
from hypothesis import given
from hypothesis import strategies as st

sides = st.integers(1, 90)


@given(width=sides, height=sides, core=st.integers(1, 100), halo=st.integers(0, 30))
def test_cores_cover_every_pixel_once(width: int, height: int, core: int, halo: int) -> None:
    """No pixel is missing and none is computed for nothing, whatever the sizes."""
    counts = np.zeros((height, width), np.int64)
    for tile in tiles.split(width, height, core=core, halo=halo):
        counts[tile.core.top : tile.core.bottom, tile.core.left : tile.core.right] += 1
    assert (counts == 1).all()


@given(width=sides, height=sides, core=st.integers(1, 100), halo=st.integers(0, 30))
def test_halo_is_full_except_at_the_border(width: int, height: int, core: int, halo: int) -> None:
    """A tile sees ``halo`` pixels around its core, fewer only where the picture ends."""
    for tile in tiles.split(width, height, core=core, halo=halo):
        inner, seen = tile.core, tile.seen
        assert (seen.left, seen.top) == (max(inner.left - halo, 0), max(inner.top - halo, 0))
        assert (seen.right, seen.bottom) == (min(inner.right + halo, width), min(inner.bottom + halo, height))


@given(
    width=sides,
    height=sides,
    core=st.integers(1, 100),
    halo=st.integers(0, 30),
    scale=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_pieces_make_up_the_whole(width: int, height: int, core: int, halo: int, scale: int, seed: int) -> None:
    """With an enlargement that looks at no neighbours, cutting and pasting changes not a bit."""
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)

    def repeat(pixels: tiles.Pixels) -> tiles.Pixels:
        return pixels.repeat(scale, axis=0).repeat(scale, axis=1)

    canvas = np.zeros((height * scale, width * scale, 3), np.uint8)
    for tile in tiles.split(width, height, core=core, halo=halo):
        enlarged = tiles.trim(repeat(tiles.cut(picture, tile)), tile, scale=scale)
        tiles.paste(canvas, enlarged, tile, scale=scale)
    assert np.array_equal(canvas, repeat(picture))


@pytest.mark.parametrize(("width", "height", "core", "halo"), [(0, 1, 1, 0), (1, 0, 1, 0), (1, 1, 0, 0), (1, 1, 1, -1)])
def test_nothing_to_split_is_refused(width: int, height: int, core: int, halo: int) -> None:
    """An empty picture or tile is an error and not an empty result."""
    with pytest.raises(ValueError, match="cannot split"):
        tiles.split(width, height, core=core, halo=halo)


def test_a_core_of_another_size_is_refused() -> None:
    """NumPy must not stretch a wrong tile over its place."""
    (tile,) = tiles.split(4, 4)
    with pytest.raises(ValueError, match="does not fit"):
        tiles.paste(np.zeros((16, 16, 3), np.uint8), np.zeros((1, 1, 3), np.uint8), tile, scale=4)
