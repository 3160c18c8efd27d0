"""The maker of a run's events: each gets an id, the run's position, its cause and the time.

Facts (the topic `esper.runs`) get the sequence 1, 2, 3, ... without gaps; telemetry and emergencies get none.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from contracts.leyline.v1 import leyline_pb2
from esper.leyline.envelope import Event, new_event
from esper.leyline.ids import uuid7
from esper.tolaria.world import World

PRODUCER: Final = "trainer"


class Recorder:
    """Makes the events of one run. The training loop moves `step` and `epoch`, a rollback `timeline`."""

    def __init__(self, world: World, run_id: str) -> None:
        self.run_id = run_id
        self.timeline = 1
        self.step = 0
        self.epoch = 0
        self._world = world
        self._clock = world.outside.clock
        world.track(lambda: self.step)

    def new_id(self) -> bytes:
        """An id for an event that begins a chain of causes."""
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
        """Publish `body` as an event; returns the event as it is on the log."""
        event = new_event(
            body,
            event_id=event_id or self.new_id(),
            run_id=self.run_id,
            producer=PRODUCER,
            recorded_at_ns=self._clock.wall_ns(),
            causation_id=causation_id,
            correlation_id=correlation_id,
            incarnation=self._world.incarnation,
            timeline=self.timeline,
            global_step=self.step,
            epoch=self.epoch,
            priority=priority,
        )
        return self._world.publish(event)
