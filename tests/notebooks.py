"""Executes the notebooks and writes them with their outputs: `python -m tests.notebooks`.

The small history that they ask is part of Esper, so the outputs change only where it, the pictures or a notebook do.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FOLDERS = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
"""Jupyter and IPython write into a person's home folder; here into one that goes away."""


def executed(path: Path) -> Any:
    """A notebook with the outputs that it has now, and nothing that differs from one execution to the next."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata["language_info"] = {"name": "python"}  # without the version of this Python
    return notebook


def main() -> None:
    """Write all of them."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update({name: str(Path(folder) / name.lower()) for name in FOLDERS})
        for path in NOTEBOOKS:
            nbformat.write(executed(path), path)


if __name__ == "__main__":
    main()
