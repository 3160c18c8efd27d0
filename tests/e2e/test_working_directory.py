"""What lies in the working directory is not imported: a data folder, other people's packages, a clone of Esper."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cold

ESPER = Path(sys.executable).with_name("esper")


def run_in(folder: Path) -> str:
    """`esper run` there, with the folder itself as its data folder; what it says of what is wrong."""
    command = [str(ESPER), "run", "--task", "spirals", "--epochs", "1", "--no-control", "--data-dir", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.stderr if done.returncode else ""


def hijack(folder: Path) -> None:
    """A package that is not to be imported."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('hijacked')\n")


def test_folders_with_the_names_of_our_packages(esper):
    """Two packages that must not be imported, and two folders without code, of which one is as a clone is called.

    A data folder has a `projections` of its own. A clone's folder is found as a namespace package before an editable
    install is asked for its `esper`. With a package called `esper`, too, under `-m soak`: a run takes ten seconds here.
    """
    for name in ("contracts", "projections"):
        hijack(esper.data_dir / name)
    (esper.data_dir / "streams").mkdir()
    (esper.data_dir / "esper" / "esper" / "cli").mkdir(parents=True)
    (esper.data_dir / "esper" / "pyproject.toml").touch()
    assert run_in(esper.data_dir) == ""
    assert len(list((esper.data_dir / "projections").iterdir())) > 1


@pytest.mark.soak
def test_packages_with_the_names_of_all_of_ours(esper):
    for name in ("contracts", "esper", "projections", "streams"):
        hijack(esper.data_dir / name)
    assert run_in(esper.data_dir) == ""
