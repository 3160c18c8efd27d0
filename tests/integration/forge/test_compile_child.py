"""One attempt in a child: its limits hold, both forms are measured and the faster serves."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import replace

import psutil
import pytest

from esper.leyline.objects import ObjectStore
from esper.tezzeret import events, results
from esper.tezzeret.jobs import Place, evolve, request
from esper.tezzeret.results import REFUSED, Failure, order_of
from streams.forge.child import _watch, compile_in_child, resident_bytes

pytestmark = pytest.mark.cold

MB = 2**20
EATER = (
    "import time\nheld = bytearray(300 * 2**20)\nfor page in range(0, len(held), 4096): held[page] = 1\ntime.sleep(60)"
)


@pytest.fixture
def order():
    asked = events.requested(request("BP009", "vector", [8], {"depth": 1.0}, "fast"), 1, producer="test")
    return order_of(evolve(None, asked, Place(0, 0, 0)), "emergency", 2_048 * MB, approved=False)


def carried_out(folder, order, timeout_s=120.0):
    begun = time.monotonic()
    outcome = asyncio.run(compile_in_child(folder, order, timeout_s))
    return outcome, time.monotonic() - begun


def of_this_folder(folder):
    """The processes that still work there."""
    found = []
    for process in psutil.process_iter():
        try:
            found += [process] if str(folder) in " ".join(process.cmdline()) else []
        except psutil.Error:
            continue
    return found


@pytest.mark.requirement("R-TEZ-4")
@pytest.mark.serial
def test_it_ends_when_its_time_is_over(tmp_path, order):
    """R-TEZ-4: on wall time, and the child is gone. Compiling takes more than a second on any machine."""
    outcome, _ = carried_out(tmp_path / "a", replace(order, pipeline="fast"), timeout_s=0.2)

    assert outcome == Failure("timeout", "killed after 0.2 s, the limit of the fast pipeline")
    assert of_this_folder(tmp_path / "a") == []


@pytest.fixture
def slow_start(tmp_path, monkeypatch):
    """Every interpreter takes this long to start, as on a busy machine."""

    def slow(seconds):
        (tmp_path / "sitecustomize.py").write_text(f"import time\ntime.sleep({seconds})\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return slow


def test_the_time_that_torch_takes_to_load_does_not_count(tmp_path, order, slow_start):
    slow_start(6.0)

    outcome, _ = carried_out(tmp_path / "a", order, timeout_s=6.0)

    assert not isinstance(outcome, Failure), outcome


def test_a_child_that_never_starts_is_ended_too(tmp_path, order, slow_start):
    slow_start(600)
    begun = time.monotonic()

    outcome = asyncio.run(compile_in_child(tmp_path / "a", order, 30.0, start_limit_s=0.5))

    assert outcome == Failure("timeout", "killed after 0.5 s in which it did not start")
    assert time.monotonic() - begun < 10.0
    assert of_this_folder(tmp_path / "a") == []


@pytest.mark.requirement("R-TEZ-5")
def test_its_own_memory_limit_holds(tmp_path, order):
    outcome, _ = carried_out(tmp_path / "a", replace(order, memory_bytes=100 * MB))

    assert isinstance(outcome, Failure)
    assert outcome.kind == "memory", outcome


@pytest.mark.requirement("R-TEZ-5")
def test_one_that_holds_too_much_is_seen(tmp_path, order):
    """R-TEZ-5: resident memory, its descendants' with it, whatever the process itself was told."""

    async def watched():
        code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {EATER!r}])"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, start_new_session=True)
        try:
            return await _watch(process, tmp_path, replace(order, memory_bytes=200 * MB), 30.0, 30.0)
        finally:
            os.killpg(process.pid, 9)
            await process.wait()

    assert asyncio.run(watched()) == Failure("memory", "killed above 200 MB, the limit of the emergency pipeline")


def test_a_process_that_has_ended_holds_nothing():
    assert resident_bytes(2**22 + 1) == 0
    assert resident_bytes(os.getpid()) > MB


@pytest.mark.requirement("R-TEZ-3")
def test_what_is_not_permitted_is_refused(tmp_path, order):
    outcome, _ = carried_out(tmp_path / "a", replace(order, parameters={"depth": 1.5}))

    assert outcome == Failure(REFUSED, "BP009 depth = 1.5 must be a whole number")


@pytest.mark.soak
def test_both_forms_are_measured_and_the_faster_serves(tmp_path, order):
    """Really compiled: forward and backward of a small kernel. Without `-m soak`, test_compiled_swap.py alone does."""
    outcome, _ = carried_out(tmp_path / "a", replace(order, pipeline="fast"))

    assert not outcome.eager_fallback, outcome.reason
    assert outcome.compile_ms > 0.0
    assert outcome.max_difference <= 1e-5
    assert min(outcome.eager_us, outcome.compiled_us) > 0.0
    compiled = outcome.compiled_us < outcome.eager_us
    assert outcome.form == ("compiled" if compiled else "eager")
    assert outcome.prewarm[-1].p50_ms * 1000 == pytest.approx(min(outcome.eager_us, outcome.compiled_us))
    kept = results.store(ObjectStore(tmp_path / "objects"), tmp_path / "a", outcome)
    assert bool(kept.cache_ref) == compiled
    assert kept.report == outcome
