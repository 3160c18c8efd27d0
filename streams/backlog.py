"""The bounded queue between the training loop and the thread that sends: two priorities, and who waits or is shed.

Emergency events and facts are *kept*: they go out before all else, emergencies first, and whoever writes a fact into a
full queue waits. Telemetry is *sheddable*: into a full queue it is dropped and counted. An entry takes up room until
the log has acknowledged it, not only until it was sent.
"""

from __future__ import annotations

import enum
import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

from contracts.topics import BY_NAME, EMERGENCY
from streams.records import Outgoing

KEPT_LIMIT: Final = 10_000
SHEDDABLE_LIMIT: Final = 4_000
"""With `KEPT_LIMIT` these are the depths at which the original system rerouted and stopped."""


class Lane(enum.Enum):
    """How an event travels."""

    EMERGENCY = "emergency"
    FACTS = "facts"
    TELEMETRY = "telemetry"


def lane_of(topic: str) -> Lane:
    """The lane of a topic's events."""
    if topic == EMERGENCY.name:
        return Lane.EMERGENCY
    return Lane.TELEMETRY if BY_NAME[topic].sheddable else Lane.FACTS


@dataclass(frozen=True, slots=True)
class Entry:
    """One event on its way, and when it was enqueued (seconds of a monotonic clock)."""

    outgoing: Outgoing
    lane: Lane
    enqueued_at: float


class Backlog:
    """Safe for several threads. Emergencies have no bound: nothing may drop or delay them at any depth."""

    def __init__(self, kept_limit: int = KEPT_LIMIT, sheddable_limit: int = SHEDDABLE_LIMIT) -> None:
        self._limits = {Lane.FACTS: kept_limit, Lane.TELEMETRY: sheddable_limit}
        self._waiting: dict[Lane, deque[Entry]] = {lane: deque() for lane in Lane}
        self._outstanding = dict.fromkeys(Lane, 0)
        self._changed = threading.Condition()
        self._asleep = dict.fromkeys((True, False), False)
        self._failure: BaseException | None = None
        self.shed = 0
        self.deepest = 0

    @property
    def depth(self) -> int:
        """Events that the log has not acknowledged yet."""
        return sum(self._outstanding.values())

    @property
    def kept(self) -> int:
        """Those of them that are no telemetry."""
        return self._outstanding[Lane.EMERGENCY] + self._outstanding[Lane.FACTS]

    @property
    def failure(self) -> BaseException | None:
        """Why an event was given up, if one was."""
        return self._failure

    def put(self, entry: Entry, timeout_s: float, *, sheddable: bool = True) -> bool:
        """Add an entry; False where it was shed.

        A fact waits up to `timeout_s` for room. Raises TimeoutError after that; nothing was added then. Telemetry that
        is not `sheddable` (the report of what was shed) is added even to a full queue.
        """
        lane = entry.lane
        with self._changed:
            if lane is Lane.TELEMETRY and sheddable and self._outstanding[lane] >= self._limits[lane]:
                self.shed += 1
                return False
            if lane is Lane.FACTS and not self._changed.wait_for(self._has_room, timeout_s):
                raise TimeoutError
            self._waiting[lane].append(entry)
            self._outstanding[lane] += 1
            self.deepest = max(self.deepest, self.depth)
            return True

    def take(self, *, kept: bool) -> Entry | None:
        """The next entry to send, of the kept lanes or of telemetry; None where none waits: the sender may sleep."""
        lanes = (Lane.EMERGENCY, Lane.FACTS) if kept else (Lane.TELEMETRY,)
        with self._changed:
            for lane in lanes:
                if self._waiting[lane]:
                    return self._waiting[lane].popleft()
            self._asleep[kept] = True
            return None

    def rouse(self, *, kept: bool) -> bool:
        """Whether that sender sleeps and must be woken; from now on it counts as awake."""
        with self._changed:
            asleep, self._asleep[kept] = self._asleep[kept], False
            return asleep

    def done(self, entry: Entry, failure: BaseException | None = None) -> None:
        """The log acknowledged an entry, or it was given up for `failure`."""
        with self._changed:
            self._outstanding[entry.lane] -= 1
            if failure is not None and entry.lane is not Lane.TELEMETRY:
                self._failure = failure
            self._changed.notify_all()

    def fail(self, failure: BaseException) -> None:
        """Nothing will be sent any more: wake everyone who waits."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def wait_until_kept(self, timeout_s: float) -> bool:
        """Wait until every kept entry is acknowledged or one is given up; False after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self.kept == 0 or self._failure is not None, timeout_s)

    def _has_room(self) -> bool:
        return self._outstanding[Lane.FACTS] < self._limits[Lane.FACTS] or self._failure is not None
