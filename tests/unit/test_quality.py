"""The whole tree passes the linter, the formatter and the type checker, as CONTRIBUTING.md promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("tool", ["ruff check --output-format=concise", "ruff format --check", "mypy"])
def test_the_tree_passes(tool):
    result = subprocess.run(
        [sys.executable, "-m", *tool.split()], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )

    assert result.returncode == 0, result.stdout + result.stderr
