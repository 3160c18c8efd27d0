"""Nobody waits half a minute for an archive that cannot be written, and nobody gives up one that can."""

from __future__ import annotations

import time

import pytest

from esper.cli import history
from esper.cli.history import UNABLE_S, ArchiveBehind, Waiting, wait_for_archive
from esper.errors import LogUnavailable
from projections import manifest
from projections.manifest import Manifest

WHY = "the archive cannot be written: [Errno 28] No space left on device"


def test_an_archive_that_cannot_be_written_is_not_waited_for(tmp_path):
    began = time.monotonic()
    with pytest.raises(LogUnavailable, match="No space left on device; the log has what is missing"):
        wait_for_archive(tmp_path, {("esper.runs", 0): 1}, 30.0, lambda _to_go: None, lambda: WHY)
    assert UNABLE_S < time.monotonic() - began < 10.0


def test_one_that_is_written_again_soon_is_waited_for(tmp_path):
    """Trouble of a moment is none: the archiver's first restart comes at once."""
    said = [WHY, "", WHY]
    with pytest.raises(LogUnavailable, match=r"lacks the end of esper\.runs still"):
        wait_for_archive(tmp_path, {("esper.runs", 0): 1}, 0.3, lambda _to_go: None, lambda: said.pop() if said else "")


@pytest.mark.parametrize("comes_on", [True, False])
def test_one_that_comes_on_is_waited_for_longer_and_said_to(tmp_path, comes_on, monkeypatch):
    """A new data folder on a cluster that many others wrote to for years: it is behind, and not broken."""
    monkeypatch.setattr(history, "SAY_S", 0.05)
    (tmp_path / "archive").mkdir()
    told, reached = [], iter(range(0, 10_000, 10))
    waiting = Waiting(told.append)

    def meanwhile(to_go):
        waiting.tell(to_go)
        if comes_on:
            ends = {("esper.runs", 0): next(reached)}
            manifest.save(tmp_path / "archive", Manifest(generation=1, next_offsets=ends))

    moving_s = 0.5 if comes_on else 60.0
    began = time.monotonic()
    with pytest.raises(LogUnavailable) as raised:
        wait_for_archive(tmp_path, {("esper.runs", 0): 100_000}, 0.2, meanwhile, moving_s=moving_s)
    waited_s = time.monotonic() - began

    assert told
    assert all(line.endswith("records to go") for line in told)
    if comes_on:
        assert isinstance(raised.value, ArchiveBehind)
        assert 0 < raised.value.to_go < 100_000
        assert waited_s >= moving_s
    else:
        assert not isinstance(raised.value, ArchiveBehind)
        assert waited_s < moving_s / 2


@pytest.mark.parametrize("pace", [10, 20_000])
def test_a_run_does_not_wait_for_everybodys_history(tmp_path, pace, monkeypatch):
    """One that cannot come to the end in time is told of once its pace is known, and not after the whole wait."""
    monkeypatch.setattr(history, "JUDGED_S", 0.05)
    (tmp_path / "archive").mkdir()
    reached = iter(range(0, 10**9, pace))

    def meanwhile(_to_go):
        ends = {("esper.runs", 0): next(reached)}
        manifest.save(tmp_path / "archive", Manifest(generation=1, next_offsets=ends))

    def wait():
        wait_for_archive(tmp_path, {("esper.runs", 0): 100_000}, 30.0, meanwhile)

    began = time.monotonic()
    if pace == 10:
        with pytest.raises(ArchiveBehind, match="records; the log has it"):
            wait()
    else:
        wait()
    assert time.monotonic() - began < 20.0
