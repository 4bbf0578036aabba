"""Enlarges a picture tile by tile on a Ray cluster: plain Ray, the same on a laptop and on rented devices."""

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pixels
import printed
import ray
import tiles
from PIL import Image
from tiles import Pixels, Tile

CHUNK_TILES = 2  # about half a second of one core
RETRIES_MAX = 10  # devices that may be lost under one chunk

Piece = tuple[Tile, Pixels]


@ray.remote(num_cpus=1, max_retries=RETRIES_MAX)
def enlarge_chunk(model: bytes, chunk: list[Piece], scale: int) -> tuple[str, list[Pixels]]:
    """The node that did it, and the enlarged core of every tile of the chunk."""
    cores = [tiles.trim(pixels.enlarge_pixels(model, seen), tile, scale=scale) for tile, seen in chunk]
    return ray.get_runtime_context().get_node_id(), cores


def enlarge(model: bytes, picture: Pixels, *, core: int, chunk_tiles: int) -> Iterator[tuple[str, Tile, Pixels]]:
    """Yields every tile as soon as it is done, in no particular order: node, tile, enlarged core."""
    scale = pixels.scale_of(model)
    pieces = [(tile, tiles.cut(picture, tile)) for tile in tiles.split(picture.shape[1], picture.shape[0], core=core)]
    chunks = [pieces[start : start + chunk_tiles] for start in range(0, len(pieces), chunk_tiles)]
    shared = ray.put(model)  # travels to every node once, not with every chunk
    waiting = {enlarge_chunk.remote(shared, chunk, scale): chunk for chunk in chunks}
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        node, cores = ray.get(done)
        for (tile, _), enlarged in zip(waiting.pop(done), cores, strict=True):
            yield node, tile, enlarged


def run(arguments: argparse.Namespace) -> bytes:
    """Enlarges the picture, prints one line of JSON a finished tile, and returns the PNG."""
    model = pixels.read_model(arguments.model)
    picture = pixels.read_picture(arguments.picture, crop=arguments.crop, limit_pixels=arguments.limit_pixels)
    height, width, _ = picture.shape
    scale = pixels.scale_of(model)
    canvas = np.zeros((height * scale, width * scale, 3), np.uint8)
    total = len(tiles.split(width, height, core=arguments.tile))
    ray.init()
    began, nodes = time.monotonic(), set()
    finished = enlarge(model, picture, core=arguments.tile, chunk_tiles=arguments.chunk)
    for done, (node, tile, core) in enumerate(finished, start=1):
        tiles.paste(canvas, core, tile, scale=scale)
        nodes.add(node)
        say({"done": done, "total": total, "node": node})
    ray.shutdown()  # Ray's own lines end here, before the picture is printed
    seconds = round(time.monotonic() - began, 2)
    say({"width": width * scale, "height": height * scale, "nodes": len(nodes), "seconds": seconds})
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "PNG", compress_level=4)  # as small as the default here, three times faster
    return file.getvalue()


def say(facts: dict[str, object]) -> None:
    """Prints one line of JSON."""
    print(json.dumps(facts), flush=True)


def size(text: str) -> tuple[int, int]:
    """Reads ``WIDTHxHEIGHT``."""
    width, height = text.split("x")
    return positive(width), positive(height)


def positive(text: str) -> int:
    """Reads a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--model", type=Path, required=True, help="an ONNX model, from fetch.py")
    made.add_argument("--picture", type=Path, required=True, help="a PNG or JPEG file")
    made.add_argument("--output", type=Path, required=True, help="the PNG to write")
    made.add_argument("--crop", type=size, metavar="WIDTHxHEIGHT", help="take only the middle of the picture")
    made.add_argument("--tile", type=positive, default=tiles.CORE_PIXELS, help="side of a tile, in pixels")
    made.add_argument("--chunk", type=positive, default=CHUNK_TILES, help="tiles a task")
    made.add_argument("--limit-pixels", type=positive, default=pixels.LIMIT_PIXELS, help="refuse larger pictures")
    made.add_argument("--print-png", action="store_true", help="print the PNG too, for whoever reads only the log")
    return made


def main() -> None:
    """Runs the command line; ends with one line on stderr and status 1 when the input is unusable."""
    arguments = parser().parse_args()
    try:
        png = run(arguments)
        arguments.output.write_bytes(png)
    except (ValueError, OSError) as error:
        sys.exit(f"enlarge: {error}")
    if arguments.print_png:
        for line in printed.lines(png):
            print(line, flush=True)


if __name__ == "__main__":
    main()
