"""A folder or a distribution with the name of one of our packages is not imported instead of it without saying so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = (
    "esper.cli",
    "esper.weatherlight",
    "esper.weatherlight.trainer",
    "projections.compaction",
    "streams.archiver",
    "streams.broker",
    "streams.decider",
    "streams.feed.outcome",
    "streams.forge",
    "streams.healthcheck",
    "streams.loadtest",
    "streams.worker",
)


def shadow(folder: Path, name: str, text: str = '"""Of somebody else."""\n') -> Path:
    """A package of somebody else in `folder`, as a wheel or a clone leaves it there."""
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(text)
    return package


def python(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python in `cwd`, with `path` before everything else that it imports from, and Esper behind it."""
    places = [str(place) for place in (path, ROOT) if place is not None]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("esper: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_every_entry_point_refuses_a_package_of_somebody_else_and_names_both_places(tmp_path, entry):
    theirs = shadow(tmp_path, "contracts")
    said = refusal(python("-P", "-m", entry, "--help", cwd=tmp_path, path=tmp_path))
    assert str(theirs) in said
    assert str(ROOT / "contracts") in said


@pytest.mark.requirement("R-OPS-14")
@pytest.mark.parametrize("name", ["contracts", "projections", "streams"])
def test_the_command_refuses_each_of_the_three(tmp_path, name):
    theirs = shadow(tmp_path, name)
    program = "import sys; from esper.cli import main; sys.argv = ['esper', 'runs']; main()"  # as the script does
    said = refusal(python("-P", "-c", program, cwd=tmp_path, path=tmp_path))
    assert f"finds package {name} at {theirs} instead of Esper's at {ROOT / name}" in said


def test_an_import_says_what_is_in_its_way(tmp_path):
    shadow(tmp_path, "contracts")
    done = python("-P", "-c", "import projections", cwd=tmp_path, path=tmp_path)
    assert f"ShadowedPackage: Python finds package contracts at {tmp_path / 'contracts'}" in done.stderr


def test_a_package_that_was_installed_over_ours_is_known(tmp_path):
    """Two wheels in one site-packages: the later one's files replace the earlier one's, and the rest stays."""
    for name in ("contracts", "esper", "projections", "streams"):
        (tmp_path / name).mkdir()
        for file in (ROOT / name).glob("*.py"):
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "contracts" / "__init__.py").write_text('"""Smart contracts."""\n')
    done = python("-P", "-c", "import streams", cwd=tmp_path, path=tmp_path)
    assert f"another distribution was installed over Esper's package contracts at {tmp_path}" in done.stderr


def test_entry_points_are_all_those_that_the_tree_has():
    """Whatever a person can start with `python -m`; children that only we start inherit the path that was checked."""
    starts = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for package in ("esper", "projections", "streams")
        for file in (ROOT / package).rglob("*.py")
        if '__name__ == "__main__"' in file.read_text()
    }
    ours_alone = {"esper.tezzeret.child", "esper.weatherlight.forkserver", "esper.weatherlight.ranks"}
    writes_our_files = {
        "esper.karn.table",
        "esper.nissa.catalogue",
        "esper.nissa.dashboard",
        "esper.nissa.slos",
        "esper.urza.lifecycle",
        "projections.pages",
    }
    assert starts - ours_alone - writes_our_files == set(ENTRY_POINTS)
