"""The forge's process: `python -m streams.forge --data-dir D --brokers HOST:PORT`.

It prints one JSON line when it has read what is on the log, ends within two seconds of SIGTERM, and may be killed at
any moment. A data folder has one at a time, by a lock.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aiokafka.errors import KafkaError
from filelock import FileLock, Timeout

from esper.errors import EsperError
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing
from streams import logs
from streams.forge.blueprint_reader import BlueprintReader
from streams.forge.scheduler import CompileScheduler
from streams.health import HealthServer
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.reader import Intake
from streams.readiness import Pulse, announce
from streams.settings import Settings
from streams.topics import ensure_topics

NAME: Final = "forge"
STOP_S: Final = 1.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until SIGTERM or SIGINT; the exit code. A foreseen error is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m streams.forge", description="Compiles blueprints into kernels.")
    parser.add_argument("--data-dir", type=Path, help="the data folder (default: ESPER_DATA or ./esper-data)")
    parser.add_argument("--brokers", help="HOST:PORT of the log (default: ESPER_BROKERS)")
    parser.add_argument("--aggressive", action="store_true", help="permit the aggressive pipeline (up to 16 minutes)")
    options = parser.parse_args(arguments)
    logs.configure()
    try:
        settings = Settings.load(data=options.data_dir)
        brokers = options.brokers or settings.brokers
        if brokers is None:
            parser.error("no log to talk to: give --brokers HOST:PORT or set ESPER_BROKERS")
        settings.run_folder.mkdir(parents=True, exist_ok=True)
        with FileLock(settings.run_folder / "forge.lock", timeout=0):
            ring = load_key_ring(settings, brokers)
            asyncio.run(_serve(settings, brokers, ring, aggressive=options.aggressive))
    except Timeout:
        sys.stderr.write(f"{NAME}: another forge works in {settings.data}; stop it, or take another data folder\n")
        return 1
    except (EsperError, KafkaError, OSError) as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        return 1
    return 0


async def _serve(settings: Settings, brokers: str, ring: KeyRing, *, aggressive: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await ensure_topics(brokers)
    metrics = Metrics()
    publisher = Publisher(brokers, ring, metrics)
    await publisher.start()
    folder = settings.run_folder / NAME
    scheduler = CompileScheduler(folder, ObjectStore(settings.objects), publisher, metrics, aggressive=aggressive)
    intake = Intake("tezzeret", ring, publisher, metrics, scheduler.fold)
    reader = BlueprintReader(brokers)
    pulse = Pulse(publisher, metrics)
    await reader.catch_up(intake.take)
    tasks = [asyncio.create_task(each) for each in (pulse.keep(), reader.follow(intake.take), scheduler.run())]
    figures = {name: lambda name=name: scheduler.figures()[name] for name in scheduler.figures()}
    with HealthServer(NAME, metrics, checks={"log": pulse.trouble}, figures=figures) as health:
        logs.ready()
        announce(NAME, settings, health.port)
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        _end_in_time()
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S / 2):
                await reader.stop()
        await publisher.stop()
    for task in done:
        task.result()


def _end_in_time() -> None:
    """A client that waits for a dead broker must not hold the process up; its children are gone by then."""
    timer = threading.Timer(STOP_S, lambda: os._exit(0))
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    sys.exit(main())
