"""What the supervisor tells the world: `/health`, and telemetry on the log every ten seconds (R-OPS-5, R-OPS-6)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from contracts.leyline.v1 import leyline_pb2
from esper.errors import LogUnavailable
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.leyline.signing import KeyRing
from esper.weatherlight.endpoint import Status
from streams.health import HealthServer
from streams.metrics import Metrics
from streams.producer import Publisher

PRODUCER: Final = "weatherlight"
SUMMARY_S: Final = 10.0
HOUSEKEEPING_S: Final = 60.0
LONGEST_LOG_BYTES: Final = 8 * 2**20
KEPT_LOG_BYTES: Final = 2**20


def serve_health(status: Callable[[], Status], metrics: Metrics) -> HealthServer:
    """A started `/health`: unhealthy while any process is not ready."""
    return HealthServer(PRODUCER, metrics, checks={"processes": lambda: trouble(status())})


def trouble(status: Status) -> str | None:
    """One line where a process is not ready; None while all is well."""
    unready = [f"{service.name} is {service.state}" for service in status.services if service.state != "ready"]
    return ", ".join(unready) or None


def summary(status: Status, now_ns: int, random_bits: bytes) -> Event:
    """The supervisor's state as telemetry: how it is, and for every process its state and restarts."""
    event_id = ids.uuid7(now_ns, random_bits)
    mode = "degraded" if status.degraded else "operational"
    packet = leyline_pb2.TelemetryPacket(
        packet_id=ids.text(event_id),
        source_subsystem=PRODUCER,
        level=leyline_pb2.TELEMETRY_LEVEL_WARNING if status.degraded else leyline_pb2.TELEMETRY_LEVEL_INFO,
        metrics=[
            leyline_pb2.MetricPoint(
                name="weatherlight.restarts_total",
                value=service.restarts,
                unit="restarts",
                attributes={"process": service.name},
            )
            for service in status.services
        ],
        system_health=leyline_pb2.SystemHealth(
            status=leyline_pb2.HEALTH_STATUS_DEGRADED if status.degraded else leyline_pb2.HEALTH_STATUS_HEALTHY,
            summary=trouble(status) or "all processes are ready",
            indicators={"system_mode": mode, **{service.name: service.state for service in status.services}},
        ),
    )
    packet.timestamp.FromNanoseconds(now_ns)
    return new_event(packet, event_id=event_id, run_id="", producer=PRODUCER, recorded_at_ns=now_ns)


async def report(status: Callable[[], Status], brokers: str, ring: KeyRing, metrics: Metrics) -> None:
    """Publish a summary every ten seconds until cancelled; one that the log does not take is left out."""
    publisher = Publisher(brokers, ring, metrics)
    try:
        while True:
            await asyncio.sleep(SUMMARY_S)
            with contextlib.suppress(LogUnavailable):
                await publisher.publish([summary(status(), time.time_ns(), os.urandom(10))])
    finally:
        await publisher.stop()


async def keep_house(run_folder: Path) -> None:
    """Once a minute, until cancelled: shorten logs that grew long, as those of a client without its broker do."""
    while True:
        await asyncio.to_thread(_shorten_all, run_folder)
        await asyncio.sleep(HOUSEKEEPING_S)


def _shorten_all(run_folder: Path) -> None:
    for path in run_folder.glob("*.log"):
        shorten(path)


def shorten(path: Path) -> None:
    """Keep only the end of a log above 8 MB. Its writers append, so they go on at the new end."""
    with path.open("r+b") as log:
        size = log.seek(0, os.SEEK_END)
        if size > LONGEST_LOG_BYTES:
            log.seek(size - KEPT_LOG_BYTES)
            kept = log.read().partition(b"\n")[2]
            log.seek(0)
            log.write(kept)
            log.truncate()
