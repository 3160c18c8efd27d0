"""What a command says on the topic of blueprints, and how far the jobs there are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from aiokafka.errors import KafkaError

from contracts.topics import BLUEPRINTS
from esper.errors import ContractViolation
from esper.karn.approval import Approvals, evolve_approvals
from esper.leyline.envelope import Event, body_name, body_of
from esper.leyline.signing import KeyRing
from esper.tezzeret.jobs import JOB_EVENTS, Job, Ledger, Place
from projections.manifest import Place as LogPlace
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.records import Record, Refused, verified_history
from streams.topic_reader import TopicReader

RETRY_S: Final = 0.2


class Conversation:
    """The topic, as an async context manager: on entering, everything that it holds is folded.

    `approvals` is what is approved now. Records that no key vouches for are no part of it.
    """

    def __init__(self, brokers: str, ring: KeyRing) -> None:
        self.ledger = Ledger()
        self.approvals: Approvals = {}
        self._ring = ring
        self._feed = TopicReader(brokers, BLUEPRINTS)
        self._publisher = Publisher(brokers, ring, Metrics())
        self._last: dict[tuple[str, str], Any] = {}
        self._listening: asyncio.Task[None] | None = None

    async def say(self, events: Sequence[Event]) -> None:
        """Write events and wait until the log has them; they come back as any others do."""
        await self._publisher.publish(events)

    def job(self, job_id: str) -> Job | None:
        """The job as it is now; None where nobody asked for it."""
        return self.ledger.jobs.get(job_id)

    def last(self, job_id: str, name: str) -> Any:
        """The last body of that name about a job, such as `compile_finished`; None where there is none."""
        return self._last.get((job_id, name))

    def check(self) -> None:
        """Raise what ended the listening, if anything did: then nothing would ever come any more."""
        if self._listening is not None and self._listening.done():
            self._listening.result()

    async def ends(self) -> dict[LogPlace, int]:
        """Where the topic ends now."""
        return {(place.topic, place.partition): offset for place, offset in (await self._feed.ends()).items()}

    async def __aenter__(self) -> Self:
        await self._feed.catch_up(self._take)
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self._feed.stop()
        await self._publisher.stop()

    async def _listen(self) -> None:
        """Fold what comes; a broker that is being started again is waited for."""
        while True:
            with contextlib.suppress(KafkaError, OSError):
                await self._feed.follow(self._take)
            await asyncio.sleep(RETRY_S)

    async def _take(self, record: Record) -> None:
        event = verified_history(record, self._ring)
        if isinstance(event, Refused):
            return
        try:
            self.ledger.apply(event, Place(record.timestamp_ms, record.partition, record.offset))
        except ContractViolation:
            return  # the forge refuses it too, and says so
        name = body_name(event)
        if name == "blueprint_approved":
            self.approvals = evolve_approvals(self.approvals, event.blueprint_approved)
        elif name in JOB_EVENTS:
            body = body_of(event)
            self._last[body.job_id, name] = body
