"""Loads the policies that are promoted on the log, and says of each whether it serves here or why not."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from contracts.topics import POLICIES
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.leyline.signing import KeyRing
from esper.tamiyo.answer import PRODUCER
from esper.tamiyo.serving import IN_FORCE_NS, KEPT, Serving
from streams.metrics import Metrics
from streams.producer import Publisher
from streams.reader import Intake
from streams.records import Record
from streams.topic_reader import TopicReader

PROCESS: Final = "decider"
_ANSWERS: Final = ("policy_loaded", "policy_rejected")
logger = logging.getLogger(__name__)


class Promotions:
    """Reads `esper.policies` from its beginning without a group: every decider has to know what serves.

    Of what was promoted before it began only the newest are loaded, and none is told of twice. Loading takes a thread
    of its own, so decisions go on meanwhile, but for those that wait for it: see `settled`.
    """

    def __init__(self, serving: Serving, publisher: Publisher, metrics: Metrics) -> None:
        self._is_past_known = False
        self._loading: dict[bytes, int] = {}
        self._changed = asyncio.Condition()
        self._serving = serving
        self._publisher = publisher
        self._metrics = metrics
        self._past: list[Event] = []
        self._told: set[bytes] = set()

    async def settled(self, at_ns: int) -> None:
        """Return once every promotion read by now that is in force at `at_ns` is loaded, or refused.

        Else a packet could be answered by the policy before it, and, were it answered again, by the new one.
        """
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._is_past_known and not any(since <= at_ns for since in self._loading.values())
            )

    async def handle(self, event: Event, _record: Record) -> None:
        """Load a PolicyPromoted; nothing else on the topic is for deciders."""
        name = event.WhichOneof("body")
        if name in _ANSWERS and event.producer == PRODUCER:
            self._told.add(event.event_id)
        if name != "policy_promoted":
            return
        if self._is_past_known:
            await self._load(event)
        else:
            self._past.append(event)

    async def follow(self, brokers: str, ring: KeyRing) -> None:
        """Load what was promoted, then what is, until cancelled."""
        reader = TopicReader(brokers, POLICIES)
        intake = Intake("tamiyo", ring, self._publisher, self._metrics, self.handle, history=True)
        try:
            await reader.catch_up(intake.take)
            for event in sorted(self._past, key=lambda each: each.recorded_at_ns)[-KEPT:]:
                await self._load(event)
            self._past.clear()
            async with self._changed:
                self._is_past_known = True
                self._changed.notify_all()
            await reader.follow(intake.take)
        finally:
            await reader.stop()

    async def _load(self, event: Event) -> None:
        self._loading[event.event_id] = event.recorded_at_ns + IN_FORCE_NS
        try:
            body = await asyncio.to_thread(self._serving.promote, event)
        finally:
            async with self._changed:
                del self._loading[event.event_id]
                self._changed.notify_all()
        event_id = ids.derived_id(event.event_id, f"tamiyo.loaded.{PROCESS}", 0)
        if event_id in self._told:
            return
        said = new_event(
            body,
            event_id=event_id,
            run_id="",
            producer=PRODUCER,
            recorded_at_ns=time.time_ns(),
            causation_id=event.event_id,
            correlation_id=event.event_id,
        )
        logger.info("%s", said.WhichOneof("body"))
        await self._publisher.publish([said])
        self._told.add(event_id)
