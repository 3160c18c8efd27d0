"""A load test of a log: how fast and how surely events get through. `python -m streams.loadtest --help`.

It writes telemetry of a run of its own at a steady rate with the trainer's writer, reads it back with a verifying
tail, and reports both. Telemetry is kept for a day, so nothing has to be cleaned up; `--facts` are kept for ever, as a
run's are. Without `--brokers` it starts an embedded broker in a temporary folder. With `--data-dir` its pages are among
those that the folder's worker and Prometheus look at.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from contracts.leyline.v1.event_pb2 import StateDigested
from contracts.leyline.v1.leyline_pb2 import (
    MESSAGE_PRIORITY_HIGH,
    MESSAGE_PRIORITY_NORMAL,
    MessagePriority,
    TelemetryEvent,
    TelemetryPacket,
)
from contracts.topics import EMERGENCY, TELEMETRY
from esper.errors import EsperError
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.leyline.signing import KeyRing
from streams.access import known, learn, recognise
from streams.broker.launch import start_broker
from streams.entry import log_to_stderr, scraped
from streams.health import HealthServer
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.reader import tail
from streams.settings import Settings
from streams.topics import ensure_topics
from streams.writer import LogWriter

TICK_S: Final = 0.005
"""Events are enqueued in small bursts, because no clock paces single ones at 10,000 a second."""

QUIET_S: Final = 1.0
GIVE_UP_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Report:
    """What came out. Latencies in milliseconds, from enqueued to read and verified."""

    events: int
    shed: int
    lost: int
    rate_per_s: float
    enqueue_us_p50: float
    enqueue_us_p99: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    deepest_queue: int
    drained_s: float


def main() -> int:
    """Run the test and print its report."""
    parser = argparse.ArgumentParser(
        prog="python -m streams.loadtest",
        description="Write events at a steady rate, read them back, and report what got through and how fast.",
        epilog="example: python -m streams.loadtest --rate 10000 --seconds 10 --bytes 200",
    )
    parser.add_argument("--brokers", help="HOST:PORT of the log (default: ESPER_BROKERS, else an embedded one)")
    parser.add_argument("--rate", type=int, default=5_000, help="events a second (default: 5000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to write (default: 5)")
    parser.add_argument("--facts", type=int, default=0, help="facts a second beside them (default: 0)")
    parser.add_argument("--data-dir", type=Path, help="the data folder that the log belongs to (default: ESPER_DATA)")
    parser.add_argument("--bytes", type=int, default=200, help="size of an event's text (default: 200)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    log_to_stderr()
    try:
        with _log(options.brokers, options.data_dir) as (brokers, ring):
            load = Load(options.rate, options.facts, options.seconds, options.bytes)
            report = run(brokers, ring, load, options.data_dir)
    except EsperError as error:
        sys.stderr.write(f"loadtest: {error}\n")
        return 1
    figures = asdict(report)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        sys.stdout.writelines(f"{name:<16}{value:>14,.1f}\n" for name, value in figures.items())
    return 0 if report.lost == 0 else 1


@dataclass(frozen=True, slots=True)
class Load:
    """What is written: telemetry and facts a second, for how long, and the size of a packet's text."""

    rate: int
    facts: int
    seconds: float
    size: int


def run(brokers: str, ring: KeyRing, load: Load, data_dir: Path | None = None) -> Report:
    """Write the load and wait until all telemetry that was not shed has been read back."""
    asyncio.run(ensure_topics(brokers))
    run_id = f"load-{os.urandom(4).hex()}"
    total = int(load.rate * load.seconds)
    metrics = Metrics()
    # The reader has a process of its own: two halves of one interpreter would measure each other.
    with (
        ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=learn, initargs=(known(),)
        ) as pool,
        LogWriter(brokers, ring, producer="loadtest", metrics=metrics) as writer,
        _pages(run_id, metrics, writer, data_dir),
    ):
        pool.submit(os.getpid).result()
        reading = pool.submit(_read, brokers, ring.secrets, run_id)
        enqueues = _write(writer, run_id, load, total)
        wrote_at = time.monotonic()
        writer.publish(_event(run_id, "", priority=MESSAGE_PRIORITY_HIGH))
        latencies = np.array(reading.result())
        drained_s = max(0.0, time.monotonic() - wrote_at - QUIET_S)
        p50, p95, p99 = np.percentile(latencies, (50, 95, 99)) if len(latencies) else (0.0, 0.0, 0.0)
        return Report(
            events=total,
            shed=writer.shed(),
            lost=total - writer.shed() - len(latencies),
            rate_per_s=total / load.seconds,
            enqueue_us_p50=float(np.percentile(enqueues, 50)),
            enqueue_us_p99=float(np.percentile(enqueues, 99)),
            latency_ms_p50=float(p50),
            latency_ms_p95=float(p95),
            latency_ms_p99=float(p99),
            deepest_queue=writer.deepest,
            drained_s=drained_s,
        )


@contextlib.contextmanager
def _pages(run_id: str, metrics: Metrics, writer: LogWriter, data_dir: Path | None) -> Iterator[None]:
    """Within, the writer's depth can be asked for, in the data folder where one is named."""
    if data_dir is None:
        yield
        return
    folder = Settings.load(data=data_dir).run_folder
    with (
        HealthServer("loadtest", metrics, checks={"log": writer.trouble}) as health,
        scraped(folder / f"{run_id}.json", "loadtest", health.port),
    ):
        yield


def _write(writer: LogWriter, run_id: str, load: Load, total: int) -> list[float]:
    """Enqueue at the rate; the microseconds that each event took."""
    text = "x" * load.size
    took: list[float] = []
    facts = 0
    started = time.monotonic()
    while len(took) < total:
        passed_s = time.monotonic() - started
        while facts < int(passed_s * load.facts):
            facts += 1
            writer.publish(_fact(run_id, facts))
        due = min(total, int(passed_s * load.rate) + 1)
        while len(took) < due:
            event = _event(run_id, text)
            before = time.perf_counter()
            writer.publish(event)
            took.append((time.perf_counter() - before) * 1e6)
        time.sleep(TICK_S)
    return took


def _read(brokers: str, secrets: tuple[bytes, ...], run_id: str) -> list[float]:
    """The latency of every event that arrives until the urgent one that ends the test and then a quiet second."""
    ring, latencies = KeyRing(secrets), list[float]()

    async def collect() -> None:
        ended = False
        async with contextlib.aclosing(tail(brokers, ring, run_id, topics=(TELEMETRY, EMERGENCY))) as events:
            with contextlib.suppress(TimeoutError):
                while True:
                    event = await asyncio.wait_for(anext(events), QUIET_S if ended else GIVE_UP_S)
                    ended = ended or event.priority == MESSAGE_PRIORITY_HIGH
                    if event.WhichOneof("body") == "telemetry_packet" and event.priority != MESSAGE_PRIORITY_HIGH:
                        latencies.append((time.time_ns() - event.recorded_at_ns) / 1e6)

    asyncio.run(collect())
    return latencies


def _event(run_id: str, text: str, *, priority: MessagePriority = MESSAGE_PRIORITY_NORMAL) -> Event:
    now_ns = time.time_ns()
    return new_event(
        TelemetryPacket(source_subsystem="loadtest", events=[TelemetryEvent(description=text)]),
        event_id=ids.uuid7(now_ns, os.urandom(10)),
        run_id=run_id,
        producer="loadtest",
        recorded_at_ns=now_ns,
        priority=priority,
    )


def _fact(run_id: str, number: int) -> Event:
    now_ns = time.time_ns()
    return new_event(
        StateDigested(root=os.urandom(32), occasion="load"),
        event_id=ids.uuid7(now_ns, os.urandom(10)),
        run_id=run_id,
        producer="loadtest",
        recorded_at_ns=now_ns,
        sequence=number,
    )


@contextlib.contextmanager
def _log(brokers: str | None, data_dir: Path | None) -> Iterator[tuple[str, KeyRing]]:
    """The log to test and its keys; an embedded broker of its own where none is named."""
    settings = Settings.load(data=data_dir)
    address = brokers or settings.brokers
    if address is not None:
        recognise(address, settings.data)
        yield address, load_key_ring(settings, address)
        return
    with tempfile.TemporaryDirectory() as folder:
        broker = start_broker(Path(folder))
        try:
            yield broker.address, load_key_ring(settings, broker.address)
        finally:
            broker.stop()


if __name__ == "__main__":
    sys.exit(main())
