"""The notebooks are run, not only read: in a real kernel, against a real market."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

FOLDER = Path(__file__).parent.parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CELL_SECONDS_MAX = 240


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_clean(path: Path) -> None:
    """What is in the repository is valid, has an id a cell, and holds nobody's outputs."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            assert cell.source.strip()


def test_a_buyer_can_follow_the_notebook(told: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From ``Market()`` to a final receipt: every cell runs, and the picture and the receipt are shown."""
    monkeypatch.setenv("SPARE_URL", told.shared.market.url)
    monkeypatch.setenv("SPARE_API_KEY", told.story.accounts["Bob"]["keys"]["buyer"])
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(FOLDER / "buyer.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=CELL_SECONDS_MAX, resources={"metadata": {"path": str(FOLDER)}})
    client.execute()
    nbformat.write(notebook, tmp_path / "executed.ipynb")
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert not [out for found in outputs.values() for out in found if out.output_type == "error"]
    assert any("image/png" in out.get("data", {}) for out in outputs["picture"])
    (shown,) = (out["data"] for out in outputs["receipt"] if "data" in out)
    assert "(final)" in shown["text/html"]
    assert "<table>" in shown["text/html"]
    assert any("SUCCEEDED" in str(out.get("data", "")) for out in outputs["follow"])
