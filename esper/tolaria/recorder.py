"""Makes every event of a run's trainer: who, where in the run, in which order, because of what.

Facts (the topic `esper.runs`) get the sequence 1, 2, 3, ... without gaps; telemetry and emergencies get none.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from contracts.leyline.v1 import leyline_pb2
from contracts.topics import EMERGENCY, RUNS
from esper.leyline.envelope import Event, new_event, topic_of
from esper.leyline.ids import uuid7
from esper.tolaria.past import Past
from esper.tolaria.ports import Clock, Log

PRODUCER: Final = "trainer"


class Recorder:
    """The pen of one incarnation of a run. The training loop moves `step` and `epoch`, a rollback `timeline`."""

    def __init__(self, log: Log, run_id: str, clock: Clock, *, incarnation: int = 1, past: Past | None = None) -> None:
        self.log = log
        self.past = past or Past()
        self.past.bind(lambda: self.step)
        self.run_id = run_id
        self.incarnation = incarnation
        self.timeline = 1
        self.sequence = 0
        self.step = 0
        self.epoch = 0
        self.published = 0
        self._clock = clock

    def new_id(self) -> bytes:
        """An id for an event that begins a chain."""
        return uuid7(self._clock.wall_ns(), secrets.token_bytes(10))

    def publish(
        self,
        body: Any,
        *,
        causation_id: bytes = b"",
        correlation_id: bytes = b"",
        event_id: bytes = b"",
        priority: leyline_pb2.MessagePriority = leyline_pb2.MESSAGE_PRIORITY_NORMAL,
    ) -> Event:
        """Put `body` into an event and hand it to the log; returns the event.

        While the run's past is followed nothing is published: a fact is compared with the one on record, which is
        returned, and the rest was told when it happened.
        """
        event = new_event(
            body,
            event_id=event_id or self.new_id(),
            run_id=self.run_id,
            producer=PRODUCER,
            recorded_at_ns=self._clock.wall_ns(),
            causation_id=causation_id,
            correlation_id=correlation_id,
            incarnation=self.incarnation,
            timeline=self.timeline,
            global_step=self.step,
            epoch=self.epoch,
            priority=priority,
        )
        topic = topic_of(event)
        if not self.past.over:
            if topic is RUNS:
                event = self.past.follow(event)
                self.sequence = self.past.sequence
            return event
        if topic is RUNS:
            self.sequence += 1
            event.sequence = self.sequence
        elif topic is EMERGENCY and priority < leyline_pb2.MESSAGE_PRIORITY_HIGH:
            event.priority = leyline_pb2.MESSAGE_PRIORITY_CRITICAL
        self.log.publish(event)
        self.published += 1
        return event
