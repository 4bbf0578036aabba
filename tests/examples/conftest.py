"""Makes the example's scripts importable, as they are in the working directory of a job, and prepares that once."""

import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "enlarge"
sys.path.insert(0, str(EXAMPLE))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the scripts, the model and the photograph."""
    from fetch import prepare

    made = tmp_path_factory.mktemp("enlarge")
    prepare(made)
    return made
