"""A run without a log is told something by way of its archive, which is the log that it has (ruling 38)."""

from __future__ import annotations

import time

import pytest

from contracts.leyline.v1.event_pb2 import CommandApplied, RunStarted
from esper.errors import InvalidInput
from esper.leyline.envelope import new_event
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.testing import KEYS, REAL_CLOCK
from esper.tolaria.told import read_told, told_event
from projections.archive_writer import Archive
from streams import local_log
from streams.local_log import LocalLog, tell


def command(words: str, run_id: str = "run"):
    return told_event(run_id, read_told(words), now_ns=time.time_ns(), random_bytes=words.encode().ljust(10)[:10])


def fact(body, sequence: int):
    return new_event(
        body, event_id=sequence.to_bytes(16, "big"), run_id="run", producer="trainer",
        recorded_at_ns=time.time_ns(), sequence=sequence, incarnation=1, timeline=1,
    )  # fmt: skip


@pytest.fixture
def log(tmp_path):
    log = LocalLog(tmp_path / "archive", KEYS, ObjectStore(tmp_path / "objects"), REAL_CLOCK)
    log.claim(fact(RunStarted(task="tiny"), 1))
    return log


def test_what_is_told_is_found_before_the_next_step_signed_and_once(log, tmp_path):
    assert log.take_commands() == []
    tell(tmp_path / "archive", KEYS, command("cull s1"), 1)
    tell(tmp_path / "archive", KEYS, command("pause", run_id="another"), 1)
    tell(tmp_path / "archive", KEYS, command("pause"), 1)
    log.await_command(0.0)

    verdicts = [CommandVerifier(KEYS).verify(each, now_ns=time.time_ns()) for each in log.take_commands()]
    assert [each.command.annotations["told"] for each in verdicts if each.command] == ["cull s1", "pause"]
    assert log.take_commands() == []


def test_what_was_told_while_the_run_wrote_is_found_too(log, tmp_path):
    tell(tmp_path / "archive", KEYS, command("cull s1"), 1)
    log.publish(fact(CommandApplied(told="pause"), 2))
    log.flush()
    tell(tmp_path / "archive", KEYS, command("hold s1"), 1)

    assert len(log.take_commands()) == 2
    assert log.take_commands() == []
    log.close()
    with Archive(tmp_path / "archive", KEYS) as archive:
        assert archive.manifest.next_offsets["esper.commands", local_log.LOCAL] == 2


def test_an_archive_that_another_keeps_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(local_log, "BUSY_S", 0.0)
    with Archive(tmp_path / "archive", KEYS), pytest.raises(InvalidInput, match="another archiver"):
        tell(tmp_path / "archive", KEYS, command("cull s1"), 1)
