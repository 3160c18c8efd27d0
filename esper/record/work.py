"""The runs that somebody asked for, as the topic of work tells of them: who trains which, and what came of it.

A fold like that of a run's facts: every worker folds the same records and comes to the same. Nobody assigns a run. A
worker claims one (`RunTaken`), as a trainer claims its run, and of two claims to one attempt the one that lies first on
the log counts. It keeps the run as long as it is heard of; the next attempt may be claimed once it is not, or once it
gave the run back. A run whose trainers died `max_attempts` times is given up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import RunRequested, TrainerProcess
from esper.leyline.envelope import Event, body_name

ATTEMPTS: Final = 5
"""How often a run's trainers may die before it is given up, where the request says nothing."""
LEASE_S: Final = 30.0
"""How long a worker that is not heard of keeps its runs, where it does not say."""

QUEUED: Final = "queued"
RUNNING: Final = "running"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
WITHDRAWN: Final = "withdrawn"
INTERRUPTED: Final = "interrupted"
"""Of an attempt: the run goes on elsewhere, and nothing spoke against it."""
DIED: Final = "died"
"""Of an attempt: likewise, but it counts against the run."""
OVER: Final = frozenset({COMPLETED, FAILED, WITHDRAWN})

Place = tuple[int, int]
"""Partition and offset on the topic of work."""


@dataclass(slots=True)
class Asked:
    """One run that was asked for, and how it stands. `worker` trains it, where it is running; `host` is its machine."""

    run_id: str
    body: RunRequested
    place: Place
    requested_at_ns: int
    status: str = QUEUED
    reason: str = ""
    attempt: int = 0
    worker: str = ""
    host: str = ""
    deaths: int = 0

    @property
    def over(self) -> bool:
        """Whether nobody needs to train it any more."""
        return self.status in OVER

    @property
    def most(self) -> int:
        """How many trainers of it may die."""
        return self.body.max_attempts or ATTEMPTS

    def free(self) -> None:
        """Nobody trains it."""
        self.status, self.worker, self.host = QUEUED, "", ""

    def count_death(self, reason: str) -> None:
        """A trainer of it died, or its worker did."""
        self.deaths += 1
        self.reason = reason
        if self.deaths >= self.most:
            self.free()
            self.status = FAILED
            self.reason = f"given up after {self.deaths} attempts: {reason}"


@dataclass(slots=True)
class Member:
    """A worker, as it was last heard of, at `heard_s` of the reader's own clock."""

    worker: str
    host: str
    slots: int
    lease_s: float
    heard_s: float
    process: TrainerProcess
    left: bool = False


@dataclass(slots=True)
class Work:
    """All requests and workers. `apply` takes the topic's events in the order of their partitions."""

    runs: dict[str, Asked] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)

    def apply(self, event: Event, place: Place, now_s: float) -> None:
        """Take in one event that lies at `place`; `now_s` is the reader's clock, by which leases run out."""
        body: Any = getattr(event, name := body_name(event))
        if name == "worker_seen":
            self.members[body.worker] = Member(
                body.worker, body.host, body.slots, body.lease_s or LEASE_S, now_s, body.process, body.left
            )
        elif name == "run_requested":
            self.runs.setdefault(event.run_id, Asked(event.run_id, body, place, event.recorded_at_ns))
        elif (run := self.runs.get(event.run_id)) is not None and not run.over:
            if name == "run_taken":
                self._taken(run, body, now_s)
            elif name == "run_released":
                self._released(run, body)

    def _taken(self, run: Asked, body: Any, now_s: float) -> None:
        if body.attempt != run.attempt + 1:
            return  # another one was first
        if run.worker:
            run.count_death(body.reason)
            if run.over:
                return
        run.attempt, run.status, run.worker, run.host = body.attempt, RUNNING, body.worker, body.host
        member = self.members.setdefault(
            body.worker, Member(body.worker, body.host, 0, LEASE_S, now_s, TrainerProcess())
        )
        member.heard_s = now_s

    def _released(self, run: Asked, body: Any) -> None:
        if not body.attempt and body.status == WITHDRAWN:
            run.free()
            run.status, run.reason = WITHDRAWN, body.reason
        elif body.attempt == run.attempt and body.worker == run.worker:
            run.free()
            run.reason = body.reason
            if body.status in OVER:
                run.status = body.status
            elif body.status == DIED:
                run.count_death(body.reason)

    def holds(self, run_id: str, worker: str, attempt: int) -> bool:
        """Whether this attempt of this worker at a run is the one that counts."""
        run = self.runs.get(run_id)
        return run is not None and run.status == RUNNING and (run.worker, run.attempt) == (worker, attempt)

    def lapsed(self, worker: str, now_s: float, lives: Callable[[TrainerProcess], bool | None]) -> str:
        """Why a worker has lost its runs; empty where it has not.

        `lives` says whether a process of this machine is there, None of another machine's.
        """
        member = self.members[worker]
        if member.left:
            return f"the worker on {member.host} left"
        if lives(member.process) is False:
            return f"the worker on {member.host} died"
        if now_s - member.heard_s > member.lease_s:
            return f"the worker on {member.host} was not heard of for {member.lease_s:.0f} s"
        return ""

    def takeable(
        self, worker: str, now_s: float, lives: Callable[[TrainerProcess], bool | None]
    ) -> Iterator[tuple[Asked, str]]:
        """The runs that `worker` may claim now, those that it should try first first, with why the last attempt ended.

        Within a priority those that were begun come first, then the oldest; but of the first few, as many as there are
        workers, each worker begins with another one, so that they seldom claim the same.
        """
        lost = {each: why for each in self.members if (why := self.lapsed(each, now_s, lives))}
        found: list[tuple[Asked, str]] = []
        for run in self.runs.values():
            if run.status == QUEUED:
                found.append((run, run.reason))
            elif run.status == RUNNING and run.worker != worker and run.worker in lost:
                found.append((run, lost[run.worker]))
        found.sort(key=_order)
        top = max((run.body.priority for run, _ in found), default=0)
        begun = sum(run.attempt > 0 and run.body.priority == top for run, _ in found)
        window = begun or max(1, len(self.members) - len(lost))
        yield from sorted(found[:window], key=lambda each: _draw(worker, each[0].run_id))
        yield from found[window:]

    def begins(self, partitions: Collection[int], positions: dict[int, int]) -> dict[int, int]:
        """From which offset on of each partition a new reader has to read: the first request that is not over.

        `positions` are how far this reader is.
        """
        first = {each: positions[each] for each in partitions}
        for run in self.runs.values():
            partition, offset = run.place
            if not run.over and partition in first:
                first[partition] = min(first[partition], offset)
        return first


def _order(each: tuple[Asked, str]) -> tuple[int, bool, int, int]:
    run, _ = each
    return -run.body.priority, not run.attempt, run.requested_at_ns, run.body.place


def _draw(worker: str, run_id: str) -> bytes:
    """Another order of runs for each worker."""
    return hashlib.sha256(f"{worker} {run_id}".encode()).digest()
