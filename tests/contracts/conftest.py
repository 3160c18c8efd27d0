"""What the contract tests share."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root():
    """The root of the repository."""
    return ROOT


def load(path):
    """The script at `path`, as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def freeze():
    """The script that freezes the contracts."""
    return load(ROOT / "tests/contracts/freeze.py")


@pytest.fixture(scope="session")
def bench():
    """The benchmark of the contracts, whose reference messages the size limits are about."""
    return load(ROOT / "tests/bench/contracts.py")
