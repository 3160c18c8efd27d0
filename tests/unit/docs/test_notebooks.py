"""Every notebook runs from its first cell to its last on the small history, and is committed with its outputs."""

from __future__ import annotations

import ast
import re
import sys
from itertools import groupby
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from tests.notebooks import FOLDERS, NOTEBOOKS, executed

ROOT = Path(__file__).parents[3]
OURS = {"projections", "esper"}
"""A notebook asks the projections; a plotting or data library of its own it does not need."""

quiet = pytest.mark.filterwarnings("ignore")  # what Jupyter's own libraries warn of


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory):
    """Jupyter and IPython write into a person's home folder; here into one that goes away."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FOLDERS:
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


def sources(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def kinds(notebook):
    """What each cell shows, by its kind: text, HTML or a stream, which on a busy machine comes in several pieces."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [[sorted(output.get("data", {output.output_type: ""})) for output in cell.outputs] for cell in code]
    return [[kind for kind, _ in groupby(each)] for each in shown]


def test_there_are_four_and_the_page_names_them():
    page = (ROOT / "notebooks" / "README.md").read_text("utf-8")

    assert set(re.findall(r"\((\w+\.ipynb)\)", page)) == {path.name for path in NOTEBOOKS}
    assert len(NOTEBOOKS) == 4


@quiet
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_pictures(path):
    notebook = executed(path)
    shown = [data for cell in notebook.cells for output in cell.get("outputs", []) for data in [output.get("data", {})]]
    pictures = [data["text/html"] for data in shown if "<svg" in data.get("text/html", "")]

    assert len(pictures) >= 2
    assert not any("nothing was measured" in picture for picture in pictures)
    assert all(cell.outputs for cell in notebook.cells[1:] if cell.cell_type == "code")
    assert kinds(nbformat.read(path, as_version=4)) == kinds(notebook), "make them anew: python -m tests.notebooks"


@quiet
def test_a_notebook_that_fails_is_found(tmp_path):
    """The test above can fail."""
    broken = tmp_path / "broken.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), broken)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        executed(broken)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_imports_the_projections_and_nothing_from_elsewhere(path):
    tree = ast.parse("\n".join(sources(nbformat.read(path, as_version=4))))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}

    assert {name.split(".")[0] for name in modules} - OURS - sys.stdlib_module_names == set()
