"""The test session itself: a serial test is alone, a file stays in one worker, a crash of a worker is a failure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SETTINGS = "[pytest]\nmarkers = serial\naddopts = -n2 --dist=loadgroup\n"
RECORD = """
import json, os, time, pytest
from pathlib import Path

@pytest.fixture(autouse=True)
def recorded(request):
    began = time.monotonic()
    yield
    name = request.node.name
    told = [name, request.node.path.name, os.environ["PYTEST_XDIST_WORKER"], began, time.monotonic()]
    Path(__file__).with_name(name + ".json").write_text(json.dumps(told))
"""


@pytest.fixture
def session(tmp_path):
    """Run a session of two workers over test files: its exit code, what it printed, and who ran what when."""

    def run(**files: str):
        folder = tmp_path / "tests"
        folder.mkdir()
        (tmp_path / "pytest.ini").write_text(SETTINGS)
        shutil.copy(CONFTEST, folder)
        for name, text in files.items():
            (folder / f"test_{name}.py").write_text(RECORD + text)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "xdist.plugin"],
            cwd=tmp_path,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout, [json.loads(path.read_text()) for path in folder.glob("*.json")]

    return run


def test_a_serial_test_runs_while_no_other_does_and_a_file_stays_in_one_worker(session):
    code, printed, ran = session(
        one="@pytest.mark.parametrize('n', range(5))\ndef test_one(n):\n    time.sleep(0.05)\n"
        "@pytest.mark.serial\ndef test_alone():\n    time.sleep(0.3)\n",
        other="@pytest.mark.parametrize('n', range(15))\ndef test_other(n):\n    time.sleep(0.05)\n",
    )

    assert code == 0, printed
    assert len(ran) == 21
    ((began, ended),) = [(began, ended) for name, _, _, began, ended in ran if name == "test_alone"]
    beside = [name for name, _, _, first, last in ran if first < ended and last > began]
    assert beside == ["test_alone"]
    workers = {file: {who for name, at, who, *_ in ran if at == file and name != "test_alone"} for _, file, *_ in ran}
    assert sorted(map(len, workers.values())) == [1, 1]
    assert workers["test_one.py"] != workers["test_other.py"]
    others = sorted((first, last) for name, _, _, first, last in ran if name != "test_alone")
    assert any(first < last for (_, last), (first, _) in pairwise(others)), "two workers do run at once"


def test_a_worker_that_crashes_is_a_failure_and_the_rest_still_runs(session):
    code, printed, ran = session(
        one="def test_crashes():\n    os._exit(3)\n",
        other="def test_before(): pass\n",
        third="def test_after(): pass\n",
    )

    assert code == 1
    assert "crashed while running 'tests/test_one.py::test_crashes'" in printed
    assert printed.splitlines()[-1].strip("= ").startswith("1 failed, 2 passed")
    assert {name for name, *_ in ran} == {"test_before", "test_after"}
