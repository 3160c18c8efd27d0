"""The supervisor says truthfully how its processes are, and keeps their logs short."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts.leyline.v1 import leyline_pb2 as l
from esper.leyline.envelope import parse, topic_of
from esper.weatherlight.endpoint import ServiceStatus, Status
from esper.weatherlight.reporting import KEPT_LOG_BYTES, LONGEST_LOG_BYTES, shorten, summary, trouble

WELL = Status(
    state="ready",
    pid=1,
    data_dir="d",
    brokers="127.0.0.1:1",
    embedded=True,
    services=(ServiceStatus("broker", "ready", 2, 0), ServiceStatus("worker", "ready", 3, 1, health_port=4)),
    clients=("esper run x",),
)
ILL = replace(WELL, degraded=True, services=(WELL.services[0], ServiceStatus("worker", "waiting", None, 2)))


def test_status_survives_the_socket():
    assert Status.from_json(WELL.to_json()) == WELL


@pytest.mark.requirement("R-OPS-5")
def test_summary_is_telemetry_that_says_all_is_well():
    event = parse(summary(WELL, 1_760_000_000_000_000_000, bytes(10)).SerializeToString())
    packet = event.telemetry_packet
    assert topic_of(event).name == "esper.telemetry"
    assert packet.system_health.status == l.HEALTH_STATUS_HEALTHY
    assert dict(packet.system_health.indicators) == {
        "system_mode": "operational",
        "broker": "ready",
        "worker": "ready",
    }
    assert [(m.attributes["process"], m.value) for m in packet.metrics] == [("broker", 0.0), ("worker", 1.0)]
    assert trouble(WELL) is None


@pytest.mark.requirement("R-OPS-6")
def test_summary_is_degraded_while_a_process_backs_off():
    packet = summary(ILL, 1, bytes(10)).telemetry_packet
    assert packet.level == l.TELEMETRY_LEVEL_WARNING
    assert packet.system_health.status == l.HEALTH_STATUS_DEGRADED
    assert packet.system_health.indicators["system_mode"] == "degraded"
    assert packet.system_health.summary == trouble(ILL) == "worker is waiting"


def test_long_logs_keep_their_last_lines(tmp_path):
    path = tmp_path / "worker.log"
    line = b"x" * 99 + b"\n"
    path.write_bytes(line * (LONGEST_LOG_BYTES // 100 + 1) + b"the end\n")
    with path.open("ab") as writer:
        shorten(path)
        writer.write(b"and on\n")
    kept = path.read_bytes()
    assert KEPT_LOG_BYTES - 200 < len(kept) < KEPT_LOG_BYTES + 200
    assert kept.startswith(line)
    assert kept.endswith(b"the end\nand on\n")


def test_short_logs_are_left_alone(tmp_path):
    path = tmp_path / "worker.log"
    path.write_bytes(b"short\n")
    shorten(path)
    assert path.read_bytes() == b"short\n"


FULL = "exit code 1: the archive cannot be written: [Errno 28] No space left on device; make room or mend the disk"


@pytest.mark.parametrize(
    ("name", "state", "last_exit", "said"),
    [
        ("archiver", "waiting", FULL, FULL.removeprefix("exit code 1: ")),
        ("archiver", "ready", FULL, ""),
        ("archiver", "waiting", "exit code 1: the log failed: KafkaConnectionError", ""),
        ("archiver", "waiting", "killed by SIGKILL", ""),
        ("worker", "waiting", FULL, ""),
    ],
)
def test_an_archive_that_cannot_be_written_is_told_of(name, state, last_exit, said):
    service = ServiceStatus(name, state, None, 2, last_exit=last_exit)
    assert replace(WELL, services=(*WELL.services, service)).unwritable == said
