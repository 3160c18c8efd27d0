"""The forge's process: `python -m streams.forge --data-dir D --brokers HOST:PORT`.

It prints one JSON line when it has read what is on the log, ends within two seconds of SIGTERM, and may be killed at
any moment. A data folder has one at a time, by a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from typing import Final, TextIO

from aiokafka.errors import KafkaError
from filelock import FileLock, Timeout

from contracts.topics import BLUEPRINTS
from esper.errors import InvalidInput, LogUnavailable
from streams.entry import Place, announce, by_hand, clients_may_warn, end_in, log_to_stderr, parser_of, place_of
from streams.forge.scheduler import CompileScheduler
from streams.health import HealthServer, LogCheck
from streams.metrics import Metrics
from streams.objects import object_store
from streams.producer import Publisher
from streams.reader import Intake
from streams.topic_reader import TopicReader
from streams.topics import ensure_topics

NAME: Final = "forge"
STOP_S: Final = 1.5


def run(arguments: Sequence[str], messages: TextIO) -> None:
    """Work until SIGTERM or SIGINT. Raises EsperError."""
    parser = parser_of("streams.forge", "Compiles blueprints into kernels.")
    parser.add_argument("--aggressive", action="store_true", help="permit the aggressive pipeline (up to 16 minutes)")
    options = parser.parse_args(arguments)
    log_to_stderr()
    place = place_of(options)
    try:
        with FileLock(place.settings.run_folder / "forge.lock", timeout=0):
            asyncio.run(_serve(place, messages, aggressive=options.aggressive))
    except Timeout:
        where = place.settings.data
        raise InvalidInput(f"another forge works in {where}; stop it, or take another data folder") from None
    except (KafkaError, OSError) as error:
        raise LogUnavailable(str(error) or repr(error)) from error


async def _serve(place: Place, messages: TextIO, *, aggressive: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings, brokers, ring = place.settings, place.brokers, place.ring
    await ensure_topics(brokers)
    metrics = Metrics()
    publisher = Publisher(brokers, ring, metrics)
    await publisher.start()
    folder = settings.run_folder / NAME
    scheduler = CompileScheduler(folder, object_store(settings.data), publisher, metrics, aggressive=aggressive)
    intake = Intake("tezzeret", ring, publisher, metrics, scheduler.fold, history=True)
    reader = TopicReader(brokers, BLUEPRINTS)
    await reader.catch_up(intake.take)
    tasks = [asyncio.create_task(each) for each in (reader.follow(intake.take), scheduler.run())]
    figures = {name: lambda name=name: scheduler.figures()[name] for name in scheduler.figures()}
    with HealthServer(NAME, metrics, checks={"log": LogCheck(publisher, metrics).trouble}, figures=figures) as health:
        clients_may_warn()
        announce(NAME, settings.run_folder, health.port, messages)
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        end_in(STOP_S)  # a client that waits for a dead broker must not hold the process up; its children are gone
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S / 2):
                await reader.stop()
        await publisher.stop()
    for task in done:
        task.result()


if __name__ == "__main__":
    sys.exit(by_hand(NAME, run))
