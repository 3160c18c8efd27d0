"""How much of the replay buffer and of the gates their tests run (soak; needs coverage.py, which nothing else does)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODULES = ("replay_buffer", "gates", "chaos")


@pytest.mark.soak
@pytest.mark.timeout(1_800)
@pytest.mark.requirement("R-SIM-48")
def test_tests_run_nine_tenths_of_the_lines_and_four_fifths_of_the_branches(tmp_path):
    pytest.importorskip("coverage", reason="coverage.py is not installed: pip install coverage")
    measure = [sys.executable, "-m", "coverage"]
    kept = f"--data-file={tmp_path / 'data'}"
    watched = ",".join(f"esper/simic/{name}.py" for name in MODULES)
    tests = [f"tests/unit/simic/test_simic_{name}.py" for name in ("buffer", "gates")]
    run = ["run", "--branch", kept, f"--include={watched}", "-m", "pytest", "-n0", "-q", "-m", "not soak", *tests]

    subprocess.run([*measure, *run], cwd=ROOT, check=True)
    subprocess.run([*measure, "json", kept, "-q", "-o", str(tmp_path / "told.json")], cwd=ROOT, check=True)

    for name, told in json.loads((tmp_path / "told.json").read_text())["files"].items():
        found = told["summary"]
        assert found["covered_lines"] / found["num_statements"] >= 0.9, name
        assert found["covered_branches"] / found["num_branches"] >= 0.8, name
