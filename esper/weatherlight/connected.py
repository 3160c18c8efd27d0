"""A trainer's outside on the log of a data folder: log, clocks, keys, objects and library, whichever process trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Final

from esper.errors import InvalidInput
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.tolaria.outside import Clock, Heard, Outside
from esper.urza.cache import KernelCache
from esper.weatherlight.alarms import RunAlarms
from esper.weatherlight.alive import this_process
from esper.weatherlight.beginning import archived_claims, claimed, served
from esper.weatherlight.contention import contended_s
from esper.weatherlight.flag import flag_of
from projections.manifest import Place
from streams.access import know_own
from streams.entry import scraped
from streams.health import HealthServer
from streams.keys import load_key_ring
from streams.local_log import LocalLog
from streams.metrics import Metrics
from streams.objects import object_store
from streams.prefetch import Prefetch
from streams.settings import Settings
from streams.trainer_log import KafkaLog

KERNEL_BYTES: Final = 64 * 2**20
NOWHERE: Final = "127.0.0.1:0"
"""The address of a log that there is not: its key is the person's own."""
REAL_CLOCK: Final = Clock(monotonic=time.monotonic, wall_ns=time.time_ns, contended=contended_s)


def connected(
    stack: ExitStack,
    settings: Settings,
    brokers: str,
    run_id: str,
    *,
    archived: Mapping[Place, int] | None,
    partition: int | None = None,
    stop: Callable[[], bool],
) -> tuple[Outside, KafkaLog, CommandVerifier]:
    """The outside of a run whose log is at `brokers`, until `stack` is closed; and its log and verifier.

    `archived` says up to where the archive has no claim to the run, where that was looked for; `partition` where it
    lies, if it began before.
    """
    know_own(brokers, settings)
    ring = load_key_ring(settings, brokers)
    metrics, objects = Metrics(), object_store(settings.data)
    gone = archived_claims(settings.data / "archive", run_id)
    log = stack.enter_context(
        KafkaLog(brokers, ring, run_id=run_id, metrics=metrics, archived=archived, gone=gone, partition=partition)
    )
    health = stack.enter_context(HealthServer("trainer", metrics, checks={"log": log.writer.trouble}))
    stack.enter_context(scraped(settings.run_folder / f"trainer-{run_id}.json", "trainer", health.port))
    # The trainer's own memory of kernels; those of a small run's sites take about one megabyte together.
    kernels = KernelCache(object_store(settings.data), time.monotonic, limit_bytes=KERNEL_BYTES)
    library = stack.enter_context(closing(Prefetch(log.writer, ring, kernels, run_id=run_id, metrics=metrics)))
    verifier = CommandVerifier(ring)
    alarms = alarms_of(stack, settings, run_id, log.take_signals)
    return Outside(log, REAL_CLOCK, objects, verifier, library, stop, this_process(), alarms=alarms), log, verifier


def alarms_of(
    stack: ExitStack, settings: Settings, run_id: str, arrived: Callable[[], Sequence[Heard]] = tuple
) -> RunAlarms:
    """The alarms of a run until `stack` is closed; `arrived` gives what came over its log."""
    return stack.enter_context(closing(RunAlarms(flag_of(settings.run_folder, run_id), arrived)))


def connected_locally(
    stack: ExitStack, settings: Settings, run_id: str, *, stop: Callable[[], bool]
) -> tuple[Outside, LocalLog, CommandVerifier]:
    """The outside of a run without a log, until `stack` is closed; and what it writes to, and its verifier."""
    objects = object_store(settings.data)
    log = local_log(settings, objects)
    stack.callback(log.close)
    verifier = CommandVerifier(load_key_ring(settings, NOWHERE))
    alarms = alarms_of(stack, settings, run_id)
    return Outside(log, REAL_CLOCK, objects, verifier, None, stop, this_process(), alarms=alarms), log, verifier


def local_log(settings: Settings, objects: ObjectStore) -> LocalLog:
    """What a run without a log writes to; raises InvalidInput where processes of the data folder own its archive."""
    from esper.weatherlight import client  # noqa: PLC0415 - only who has no log looks

    if client.status(settings.data) is not None:
        raise InvalidInput(
            f"the processes of {settings.data} run and own its archive: join them with log='auto', give data_dir= a "
            "folder of this run's own, or end them first"
        )
    archive, ring = settings.data / "archive", load_key_ring(settings, NOWHERE)
    serving = partial(served, settings.data, objects)
    return LocalLog(archive, ring, objects, REAL_CLOCK, claimed=partial(claimed, archive), serving=serving)
