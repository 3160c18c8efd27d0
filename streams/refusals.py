"""Refusals of records that nobody we know has signed: one is told of, the others of its minute are counted.

Anybody who reaches the log can write such records, as many as they like. Each told of by itself would add as many to
the history, for ever. What a known key has signed is another matter: every refusal of that is told of.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from streams.records import Record

WINDOW_S: Final = 60.0


@dataclass(slots=True)
class _Window:
    until_s: float
    more: int = 0
    last: str = ""


class Refusals:
    """For each topic and reason at most one refusal in `window_s` is told of, and the number of the others once."""

    def __init__(self, window_s: float = WINDOW_S, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.window_s = window_s
        self._monotonic = monotonic
        self._windows: dict[tuple[str, str], _Window] = {}

    def first(self, record: Record, reason: str) -> bool:
        """Whether this one is to be told of; else it is counted."""
        key = (record.topic, reason)
        window = self._windows.get(key)
        if window is None or (self._monotonic() >= window.until_s and not window.more):
            self._windows[key] = _Window(self._monotonic() + self.window_s)
            return True
        window.more += 1
        window.last = record.place
        return False

    @property
    def counting(self) -> bool:
        """Whether some were counted that are not summed up yet."""
        return any(window.more for window in self._windows.values())

    def summaries(self, *, producer: str, run_id: str = "") -> list[Event]:
        """What was counted in windows that are over, each as one event; the next refusal is told of again."""
        over = [key for key, window in self._windows.items() if window.more and self._monotonic() >= window.until_s]
        return [self._summary(*key, self._windows.pop(key), producer, run_id) for key in over]

    def _summary(self, topic: str, reason: str, window: _Window, producer: str, run_id: str) -> Event:
        told = f"{window.more} more in {self.window_s:g} s, the last at {window.last}"
        return new_event(
            event_pb2.SecurityViolation(reason=reason, topic=topic, detail=told),
            event_id=ids.derived_id(f"{window.last}/{producer}".encode(), "oona.security.summary"),
            run_id=run_id,
            producer=producer,
            recorded_at_ns=time.time_ns(),
            priority=leyline_pb2.MESSAGE_PRIORITY_CRITICAL,
        )
