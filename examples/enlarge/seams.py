"""Proves that tiling left no seams: enlarges the picture in one piece and compares every value."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import enlarge
import numpy as np
import pixels
from tiles import Pixels


@dataclass(frozen=True, slots=True)
class Seams:
    """How far two pictures of one size are apart."""

    values: int
    differing: int
    levels_max: int


def compare(tiled: Pixels, untiled: Pixels) -> Seams:
    """Counts the values that differ; raises ValueError when the sizes do."""
    if tiled.shape != untiled.shape:
        raise ValueError(f"the pictures have different shapes: {tiled.shape} and {untiled.shape}")
    apart = np.abs(tiled.astype(np.int16) - untiled.astype(np.int16))
    return Seams(values=apart.size, differing=int(np.count_nonzero(apart)), levels_max=int(apart.max()))


def check(model: Path, picture: Path, output: Path, *, crop: tuple[int, int] | None = None) -> Seams:
    """Compares the file ``output`` with the picture enlarged in one piece; raises ValueError for unusable files."""
    network = pixels.read_model(model)
    small = pixels.read_picture(picture, crop=crop)
    tiled = pixels.read_picture(output, limit_pixels=small.size * pixels.scale_of(network) ** 2)
    return compare(tiled, pixels.enlarge_pixels(network, small))


def main() -> None:
    """Prints one line; ends with status 1 when a value differs or a file is unusable."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True, help="what was enlarged")
    parser.add_argument("--output", type=Path, required=True, help="what came out, tile by tile")
    parser.add_argument("--crop", type=enlarge.size, metavar="WIDTHxHEIGHT", help="as given to enlarge.py")
    arguments = parser.parse_args()
    try:
        seams = check(arguments.model, arguments.picture, arguments.output, crop=arguments.crop)
    except ValueError as error:
        sys.exit(f"seams: {error}")
    print(f"{seams.differing} of {seams.values} values differ, by at most {seams.levels_max} levels")
    sys.exit(1 if seams.differing else 0)


if __name__ == "__main__":
    main()
