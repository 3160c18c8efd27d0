"""Follows a version that decides for a share of new runs, and says on the log what becomes of it. R-SIM-40.

A decider sees the runs of its own partitions; this reads the reports of all, without a group, from the moment of the
staging on, and only while one is staged. Of several workers the one that has the first partition of the runs speaks.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from typing import Final

from aiokafka import TopicPartition

from contracts.topics import POLICIES, REPORTS, RUNS
from esper.errors import LogUnavailable
from esper.leyline.envelope import Event
from esper.leyline.signing import KeyRing
from esper.simic.staged import Stage, decided
from esper.simic.versions import Versions, evolve, fold
from streams.access import prefix_of
from streams.metrics import Metrics
from streams.process import AgentContext
from streams.producer import Publisher
from streams.reader import Handler, Intake, past
from streams.records import Record
from streams.topic_reader import TopicReader

SLACK_S: Final = 60.0
"""By how much the clocks of two machines may differ: reports from so long before the staging are looked at, too."""
logger = logging.getLogger(__name__)


class Stages:
    """The staged version of now and what its runs came to."""

    def __init__(
        self, brokers: str, ring: KeyRing, publisher: Publisher, metrics: Metrics, speaks: Callable[[], bool]
    ) -> None:
        """`speaks` says whether this worker is the one that tells the log."""
        self._brokers = brokers
        self._ring = ring
        self._publisher = publisher
        self._metrics = metrics
        self._speaks = speaks
        self._versions = Versions()
        self._stage: Stage | None = None
        self._reading: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        """Follow what is said of policies, and the reports while a version is staged, until cancelled."""
        reader = TopicReader(self._brokers, POLICIES)
        intake = self._intake(self._policy)
        try:
            await reader.catch_up(intake.take)
            while True:
                self._look()
                await reader.next(intake.take)
        finally:
            await self._end()
            await reader.stop()

    async def _policy(self, event: Event, _record: Record) -> None:
        self._versions = evolve(self._versions, event)

    def _look(self) -> None:
        """Begin to read reports for a version that is newly staged; leave off where none is any more."""
        stage = Stage.of(self._versions)
        if (stage and (stage.version, stage.since_ns)) == (self._stage and (self._stage.version, self._stage.since_ns)):
            return
        if self._reading is not None:
            self._reading.cancel()
        self._stage = stage
        self._reading = None if stage is None else asyncio.create_task(self._read(stage))
        if self._reading is not None:
            self._reading.add_done_callback(ended)

    async def _read(self, stage: Stage) -> None:
        reader = TopicReader(self._brokers, REPORTS, since_s=stage.since_ns / 1e9 - SLACK_S)

        async def count(event: Event, _record: Record) -> None:
            stage.take(event)

        intake = self._intake(count)
        try:
            await reader.catch_up(intake.take)
            while not await self._told(stage):
                await reader.next(intake.take)
        finally:
            await reader.stop()

    async def _told(self, stage: Stage) -> bool:
        """Tell the log what becomes of it, as soon as that is known. It is folded anew: somebody may have spoken."""
        if stage.verdict == "waits" or not self._speaks():
            return False
        try:
            policies = [event async for event in past(self._brokers, self._ring, POLICIES)]
            said = decided(stage, policies, fold(policies), time.time_ns())
            await self._publisher.publish([] if said is None else [said])
        except LogUnavailable as error:
            logger.warning("what becomes of policy %s waits for the log: %s", stage.version, error)
            return False
        what = stage.verdict if said is not None else f"{stage.verdict}, but there is no version to go back to"
        logger.warning("policy %s %s: %s", stage.version, what, stage)
        return True

    def _intake(self, handle: Handler) -> Intake:
        return Intake("simic", self._ring, self._publisher, self._metrics, handle, history=True)

    async def _end(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


_tasks: Final[set[asyncio.Task[None]]] = set()


async def setup(context: AgentContext) -> None:
    """Follow in the background of the worker."""
    first = TopicPartition(prefix_of(context.brokers) + RUNS.name, 0)

    def speaks() -> bool:
        return first in context.app.consumer.assignment()

    stages = Stages(context.brokers, context.ring, context.publisher, context.metrics, speaks)
    task = asyncio.create_task(stages.follow())
    _tasks.add(task)
    task.add_done_callback(ended)


def ended(task: asyncio.Task[None]) -> None:
    """A worker that follows no staging any more ends, and its supervisor starts another."""
    _tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("staged policies are not followed any more", exc_info=error)
        signal.raise_signal(signal.SIGTERM)
