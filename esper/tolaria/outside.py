"""Interfaces to everything a trainer uses outside of itself: log, clocks, library. `streams` implements them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from contracts.leyline.v1.event_pb2 import TrainerProcess
from contracts.leyline.v1.leyline_pb2 import EmergencySignal
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import Signed
from esper.leyline.verifier import CommandVerifier
from esper.urza.artifact import Kernel, Refusal
from esper.urza.library import Wanted


@dataclass(frozen=True, slots=True)
class Answer:
    """Tamiyo's answer to a state packet: its decision, and the command that follows unless it decided for nothing."""

    decision: Signed
    command: Signed | None


class Log(Protocol):
    """The trainer's view of the log. All calls are synchronous; `flush`, `await_answer` and `claim` wait.

    All but `shed` raise Superseded once another process has claimed the run.
    """

    def publish(self, event: Event) -> None:
        """Enqueue an event (at most 50 µs). Facts wait while the queue is full; telemetry is shed and counted."""

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until every fact published so far is acknowledged; raises LogUnavailable after `timeout_s`."""

    def claim(self, event: Event) -> None:
        """Publish a run's start or RunResumed and wait until the run is this process's.

        Raises Superseded where another process was first.
        """

    def await_answer(self, packet_id: bytes, timeout_s: float) -> Answer | None:
        """Wait for the answer to a packet; None after `timeout_s`."""

    def take_commands(self) -> list[Signed]:
        """Commands that arrived since the last call and answer no packet waited for: late ones, and a person's."""

    def await_command(self, timeout_s: float) -> None:
        """Wait until there is something for `take_commands` to return, at most so long."""

    def shed(self) -> int:
        """How many telemetry events were shed so far."""


class ClaimableLog(Log, Protocol):
    """A log that holds events of the run already: what a resume needs."""

    def catch_up(self, open_packet: bytes, requests: Iterable[tuple[Event, Signed]], known: Iterable[Signed]) -> None:
        """Take in what arrived before this process: the answer to `open_packet`, and unanswered `requests`.

        What is `known` was dealt with, and is dropped if it comes again.
        """


class KernelSource(Protocol):
    """The trainer's view of Urza's library."""

    def want(self, wanted: Sequence[Wanted]) -> None:
        """Begin to fetch these kernels, in this order. May wait for first answers, a second at most."""

    def take(self, wanted: Wanted) -> Kernel | Refusal | None:
        """The kernel, checked just now; why it cannot be used; None where the library has none that is known of.

        Never waits.
        """


@dataclass(frozen=True, slots=True)
class Heard:
    """An emergency that somebody else has signalled: its level, why, and the event where it came over the log."""

    level: int
    reason: str
    event_id: bytes = b""


class Alarms(Protocol):
    """The way of emergencies between this run and other processes, beside the log and faster than it."""

    def told(self, signal: EmergencySignal) -> None:
        """The run signals an emergency: whoever watches on this machine sees it at once, with the log or without."""

    def heard(self) -> Sequence[Heard]:
        """The signals of others since the last call."""

    def begins(self, within_s: float) -> None:
        """A rollback begins, which must end within so many seconds."""

    def ends(self) -> None:
        """It has ended."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Two clocks: `monotonic` in seconds for every duration, `wall_ns` in nanoseconds for time stamps alone.

    `contended` are the seconds so far in which something on the machine waited for a processor: of a duration, that
    much says nothing about who measured it.
    """

    monotonic: Callable[[], float]
    wall_ns: Callable[[], int]
    contended: Callable[[], float] = lambda: 0.0


def never() -> bool:
    """A `should_stop` that lets the run go on to its end."""
    return False


Spans = Callable[[str], contextlib.AbstractContextManager[Any]]
"""What is entered around a stretch of the run, by its name, so that a profile shows it (`esper.tolaria.profile`)."""

EPOCHS_END: Final = "epoch's end"
"""The span of all that lies between two epochs."""

_NOT_WATCHED: Final = contextlib.nullcontext()


def unwatched(_name: str) -> contextlib.AbstractContextManager[Any]:
    """The spans of a run that nobody profiles."""
    return _NOT_WATCHED


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything outside of the trainer that a run uses.

    `should_stop` is asked before every step: True ends the run as interrupted, and its last completed epoch is kept.
    Seeds germinate with the kernels of `library` as far as it has them by then; the run waits for none. Without a
    `verifier` every command is accepted, which is for tests alone. `process` is this one, for those who ask whether the
    run's trainer lives. `span` is entered around what a profile shows. Without `alarms` the run hears of no emergency.
    """

    log: Log
    clock: Clock
    objects: ObjectStore
    verifier: CommandVerifier | None = None
    library: KernelSource | None = None
    should_stop: Callable[[], bool] = never
    process: TrainerProcess | None = None
    span: Spans = unwatched
    alarms: Alarms | None = None
