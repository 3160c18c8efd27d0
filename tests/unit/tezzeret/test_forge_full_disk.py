"""A full disk uses up no attempt: kernels wait for room, are not parked, and are compiled once there is some."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from esper.leyline.objects import ObjectStore
from esper.tezzeret.results import REFUSED, Failure
from streams.forge import scheduler
from streams.forge.scheduler import LEAST_FREE_BYTES, CompileScheduler
from streams.metrics import Metrics


class Told:
    """The producer's end: keeps what is published."""

    def __init__(self):
        self.bodies = []

    async def publish(self, events):
        self.bodies += [event.WhichOneof("body") for event in events]


@pytest.fixture
def disk(monkeypatch):
    """The free bytes that the system tells, to be changed."""
    free = [LEAST_FREE_BYTES - 1]
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(scheduler.shutil, "disk_usage", lambda _path: usage._replace(free=free[0]))
    return free


@pytest.mark.parametrize("filled", ["before it began", "while it ran"])
def test_a_kernel_waits_for_room_and_is_compiled_once_there_is_some(story, disk, tmp_path, monkeypatch, filled):
    children = []

    async def child(folder, order, _timeout_s):
        folder.mkdir()
        if len(children) < 5 and filled == "while it ran":
            disk[0] = 0
        children.append(order.attempt)
        return Failure("error", "No space left on device") if disk[0] == 0 else Failure(REFUSED, "the end of the test")

    monkeypatch.setattr(scheduler, "compile_in_child", child)
    told = Told()
    forge = CompileScheduler(tmp_path, ObjectStore(tmp_path / "objects"), told, Metrics())

    async def turns():
        forge.ledger.apply(story.asked, story.place)
        for _ in range(12):
            if filled == "while it ran":
                disk[0] = LEAST_FREE_BYTES
            forge._start_jobs()
            await asyncio.gather(*forge._running.values())
            forge._drop_ended()
        if filled == "before it began":
            assert not told.bodies
            assert not children
            disk[0] = LEAST_FREE_BYTES
            forge._start_jobs()
            await asyncio.gather(*forge._running.values())

    asyncio.run(turns())

    assert set(children) == {1}, "no attempt was used up"
    assert len(children) == (1 if filled == "before it began" else 6)
    assert told.bodies.count("compile_parked") == 1, "by the last child, with room"
