"""Small programs that stand for supervised processes: they behave and misbehave as real ones do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.weatherlight.service import Service, ServiceSpec


@pytest.fixture
def make_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Service]:
    """A service around a program given as text."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[3]}")

    def make(program: str, *, ready_s: float = 10.0, niceness: int = 0) -> Service:
        (tmp_path / "supervised_program.py").write_text(program)
        spec = ServiceSpec("program", "supervised_program", (), ready_s=ready_s, niceness=niceness)
        return Service(spec, tmp_path, on_change=lambda: None)

    return make


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until `condition` holds; fails the test where it does not."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for is the state of another process
            await asyncio.sleep(0.01)


@pytest.fixture(name="until")
def fixture_until() -> Callable[..., object]:
    return until
