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
from esper.tamiyo.serving import KEPT, Serving
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
    of its own, so decisions go on meanwhile; `known` is set once all that was promoted before is loaded.
    """

    def __init__(self, serving: Serving, publisher: Publisher, metrics: Metrics) -> None:
        self.known = asyncio.Event()
        self._serving = serving
        self._publisher = publisher
        self._metrics = metrics
        self._past: list[Event] = []
        self._told: set[bytes] = set()

    async def handle(self, event: Event, _record: Record) -> None:
        """Load a PolicyPromoted; nothing else on the topic is for deciders."""
        name = event.WhichOneof("body")
        if name in _ANSWERS and event.producer == PRODUCER:
            self._told.add(event.event_id)
        if name != "policy_promoted":
            return
        if self.known.is_set():
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
            self.known.set()
            await reader.follow(intake.take)
        finally:
            await reader.stop()

    async def _load(self, event: Event) -> None:
        body = await asyncio.to_thread(self._serving.promote, event)
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
