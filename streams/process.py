"""What every Faust process of Esper does alike: arguments, key, topics, readiness, health, and an end in time."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import faust

from esper.errors import EsperError
from esper.leyline.signing import KeyRing
from streams import logs
from streams.app import make_app
from streams.health import HealthServer
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.readiness import Pulse, announce
from streams.settings import Settings
from streams.topics import ensure_topics

READY_S: Final = 25.0
STOP_S: Final = 1.5
SWITCH_S: Final = 0.0005


@dataclass(frozen=True, slots=True)
class Room:
    """What a process gives its agents."""

    app: faust.App
    settings: Settings
    brokers: str
    ring: KeyRing
    publisher: Publisher
    metrics: Metrics


Furnish = Callable[[Room], Awaitable[None]]
"""Declares the agents of a process on `room.app` and warms up what they need; called before the app starts."""


def main(
    name: str, description: str, furnish: Furnish, arguments: Sequence[str] | None = None, *, urgent: bool = False
) -> int:
    """Run a process until SIGTERM or SIGINT; the exit code. A foreseen error is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog=f"python -m streams.{name}", description=description)
    parser.add_argument("--data-dir", type=Path, help="the data folder (default: ESPER_DATA or ./esper-data)")
    parser.add_argument("--brokers", help="HOST:PORT of the log (default: ESPER_BROKERS)")
    options = parser.parse_args(arguments)
    logs.configure()
    try:
        settings = Settings.load(data=options.data_dir)
        brokers = options.brokers or settings.brokers
        if brokers is None:
            parser.error("no log to talk to: give --brokers HOST:PORT or set ESPER_BROKERS")
        ring = load_key_ring(settings, brokers)
        asyncio.run(_serve(name, settings, brokers, ring, furnish, urgent=urgent))
    except EsperError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 1
    return 0


async def _serve(name: str, settings: Settings, brokers: str, ring: KeyRing, furnish: Furnish, *, urgent: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await ensure_topics(brokers)
    settings.run_folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics()
    app = make_app(f"esper-{name}", brokers, settings.data, embedded=settings.brokers is None, urgent=urgent)
    publisher = Publisher(brokers, ring, metrics)
    await publisher.start()
    await furnish(Room(app, settings, brokers, ring, publisher, metrics))
    pulse = Pulse(publisher, metrics)
    watch = asyncio.create_task(pulse.keep())
    app.finalize()
    await app.start()
    await _until_assigned(app, stop)
    _settle()
    with HealthServer(name, metrics, checks={"log": pulse.trouble, "group": lambda: _unassigned(app)}) as health:
        logs.ready()
        if not stop.is_set():
            announce(name, settings, health.port)
        await stop.wait()
        _end_in_time()
        watch.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S / 2):
                await app.stop()
        await publisher.stop()
    gc.unfreeze()  # else DuckDB complains at the end about what was never collected


def _settle() -> None:
    """Take two stalls out of an agent's answers: collections that walk every module, and threads that wait 5 ms.

    Faust's consumer has a thread of its own, and each hand-over of the interpreter between it and the agents costs up
    to the switch interval.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)


async def _until_assigned(app: faust.App, stop: asyncio.Event) -> None:
    """Wait until the group has given this process its partitions (or there is nothing to wait for)."""
    deadline = time.monotonic() + READY_S
    while _unassigned(app) and not stop.is_set() and time.monotonic() < deadline:  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(0.01)


def _unassigned(app: Any) -> str | None:
    """One line while the group gives this process no partitions.

    A second process of a name may rightly get none; then this process stands by, and is not ready.
    """
    if app.rebalancing or not app.consumer.assignment():
        return "no partitions are assigned"
    return None


def _end_in_time() -> None:
    """Faust can wait for ever on an agent that crashed, as when its broker is killed: then the process just ends.

    Nothing is lost by that: what was not committed is read again.
    """
    timer = threading.Timer(STOP_S, lambda: os._exit(0))
    timer.daemon = True
    timer.start()
