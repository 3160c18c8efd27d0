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


@pytest.fixture(scope="session")
def freeze():
    """The script beside this file, as a module."""
    spec = importlib.util.spec_from_file_location("freeze_contracts", Path(__file__).with_name("freeze.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
