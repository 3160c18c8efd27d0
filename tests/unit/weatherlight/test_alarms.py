"""The emergency flag between a trainer and the supervisor of its machine: seen at once, and without the log."""

from __future__ import annotations

import logging

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.weatherlight.alarms import RunAlarms, raise_flag
from esper.weatherlight.flag import FROM_TRAINER, SIZE, TO_TRAINER, Flag, flag_of
from esper.weatherlight.watch import AGAIN_S, Emergencies, Watch
from streams.metrics import Metrics

NS = 1_000_000_000


def signal(level=leyline.EMERGENCY_LEVEL_CONSERVATIVE, reason="non_finite_loss"):
    return leyline.EmergencySignal(version=1, level=level, reason=reason, origin="tolaria", run_id="a")


def test_a_block_reads_as_it_was_written_and_a_half_written_one_as_none(tmp_path):
    flag = Flag.make(tmp_path / "emergency-a")
    assert flag.shared
    assert (tmp_path / "emergency-a").stat().st_mode & 0o777 == 0o600
    assert flag.raised(FROM_TRAINER) is None
    flag.signal(FROM_TRAINER, 4, 17, "schade! ä" * 9)
    other = Flag.open(tmp_path / "emergency-a")
    found = other.raised(FROM_TRAINER)
    assert (found.sequence, found.level, found.monotonic_ms) == (1, 4, 17)
    assert ("schade! ä" * 9).startswith(found.reason)
    assert other.raised(TO_TRAINER) is None
    with (tmp_path / "emergency-a").open("r+b") as file:
        file.seek(4)
        file.write(b"\x03")
    assert other.raised(FROM_TRAINER) is None


def test_what_is_no_flag_is_none(tmp_path):
    (tmp_path / "short").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "short")
    assert [Flag.open(tmp_path / name) for name in ("short", "link", "absent")] == [None, None, None]
    assert not raise_flag(tmp_path / "absent", 4, "x")
    assert SIZE == 64 + 16 + 64


@pytest.mark.requirement("R-TOL-28")
def test_where_no_memory_can_be_shared_the_flag_is_the_process_s_own(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        alarms = RunAlarms(tmp_path / "file" / "emergency-a", list)
    alarms.told(signal())
    alarms.begins(1.0)
    alarms.ends()
    assert alarms.heard() == []
    assert "only the log tells of one" in caplog.text
    alarms.close()


@pytest.mark.requirement("R-TOL-28", "R-OPS-11")
def test_the_supervisor_sees_a_grave_signal_at_its_next_look_without_any_log(tmp_path, caplog):
    metrics = Metrics()
    emergencies = Emergencies(tmp_path, metrics)
    alarms = RunAlarms(flag_of(tmp_path, "a"))
    alarms.told(signal(leyline.EMERGENCY_LEVEL_ELEVATED))
    emergencies.look(0, 0)
    assert emergencies.last == ""

    alarms.told(signal())
    with caplog.at_level(logging.WARNING):
        emergencies.look(0, 0)
        emergencies.look(0, 0)

    assert emergencies.last == "level 3 in run a: non_finite_loss"
    assert metrics.value("esper_weatherlight_emergency_detections_total", way="flag") == 1
    assert metrics.value("esper_weatherlight_emergency_latency_seconds_count") == 1
    assert len(caplog.records) == 1
    alarms.told(signal(leyline.EMERGENCY_LEVEL_HALT, "again"))
    emergencies.look(0, 0)
    assert emergencies.last == "level 4 in run a: again"


def test_what_was_raised_before_the_first_look_is_no_news_and_a_run_that_goes_on_has_a_flag_of_its_own(tmp_path):
    RunAlarms(flag_of(tmp_path, "a")).told(signal())
    watch = Watch(tmp_path)
    assert list(watch.look(0)) == []
    again = RunAlarms(flag_of(tmp_path, "a"))
    assert list(watch.look(0)) == []
    again.told(signal())
    assert [seen.run_id for seen in watch.look(0)] == ["a"]
    again.close()
    assert list(watch.look(0)) == []


@pytest.mark.requirement("R-OPS-12")
def test_a_rollback_beyond_its_deadline_is_told_once_and_at_most_every_half_second(tmp_path):
    metrics = Metrics()
    emergencies = Emergencies(tmp_path, metrics)
    flag = Flag.make(flag_of(tmp_path, "a"))

    def told_at(now_ns):
        emergencies.look(now_ns, now_ns)
        return metrics.value("esper_weatherlight_deadlines_missed_total")

    flag.begin(1 * NS)
    assert told_at(1 * NS) == 0, "it has until then"
    assert told_at(1 * NS + 1) == 1
    assert told_at(3 * NS) == 1, "told already"
    flag.end()
    flag.begin(2 * NS)
    flag.end()
    assert told_at(4 * NS) == 1, "it ended in time, as far as anybody saw"
    flag.begin(4 * NS)
    assert told_at(5 * NS) == 2
    flag.end()
    flag.begin(5 * NS + 1)
    assert told_at(5 * NS + round(0.4 * AGAIN_S * NS)) == 2, "not again so soon"
    assert told_at(6 * NS) == 3
    told = emergencies.missed_now()
    assert {body.emergency_signal.level for body in told} == {leyline.EMERGENCY_LEVEL_ELEVATED}
    assert [body.emergency_signal.run_id for body in told] == ["a"] * 3
