"""What lies in the working directory is not imported: a data folder, other people's packages, a clone of Esper."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ESPER = Path(sys.executable).with_name("esper")


def run_in(folder: Path) -> str:
    """`esper run` there, with the folder itself as its data folder; what it says of what is wrong."""
    command = [str(ESPER), "run", "--task", "spirals", "--epochs", "1", "--no-control", "--data-dir", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.stderr if done.returncode else ""


def test_a_data_folder_is_its_own_working_directory_twice(esper):
    esper.data_dir.mkdir()
    assert run_in(esper.data_dir) == ""
    assert (esper.data_dir / "projections").is_dir()
    assert run_in(esper.data_dir) == ""


@pytest.mark.parametrize("package", [True, False], ids=["packages", "folders"])
def test_folders_with_the_names_of_our_packages(esper, package):
    for name in ("contracts", "esper", "projections", "streams"):
        (esper.data_dir / name).mkdir(parents=True)
        if package:
            (esper.data_dir / name / "__init__.py").write_text("raise RuntimeError('hijacked')\n")
    assert run_in(esper.data_dir) == ""


def test_the_parent_of_a_clone_named_esper(esper):
    """The clone is found as a namespace package before an editable install is asked for its `esper`."""
    (esper.data_dir / "esper" / "esper" / "cli").mkdir(parents=True)
    (esper.data_dir / "esper" / "pyproject.toml").touch()
    assert run_in(esper.data_dir) == ""
