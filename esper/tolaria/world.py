"""The port between a run and everything outside of it: the protocol `World`, `LiveWorld`, which is live, `Recorder`.

The other implementation is `RecordedWorld`, which answers from a run's record as long as there are recorded facts and
hands over to a `LiveWorld` at their end. The trainer does not know which of the two it has.

`Recorder` makes a run's events: each gets an id, the run's position, its cause and the time. Its facts (the topic
`esper.runs`) get the sequence 1, 2, 3, ... without gaps; telemetry and emergencies get none.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from contracts.leyline.v1 import leyline_pb2
from contracts.leyline.v1.event_pb2 import (
    BreakerChanged,
    CommandRejected,
    GateEvaluated,
    LearningRateChanged,
)
from contracts.leyline.v1.leyline_pb2 import (
    EMERGENCY_LEVEL_CONSERVATIVE,
    EMERGENCY_LEVEL_HALT,
    MESSAGE_PRIORITY_CRITICAL,
    MESSAGE_PRIORITY_HIGH,
)
from contracts.topics import EMERGENCY, RUNS
from esper.kasmina.commands import CommandRefused
from esper.kasmina.kernels import Unusable, Verified
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event, parse, topic_of
from esper.leyline.signing import Signed
from esper.leyline.verifier import Verdict
from esper.record.run_status import RunState
from esper.tolaria.fork_change import Fork, ForkPlace
from esper.tolaria.outside import Answer, Heard, KernelSource, Outside
from esper.tolaria.state import Checkpoint, Digest, FlatState, Snapshot, delete_checkpoint, store_checkpoint
from esper.tolaria.told import HALTED

if TYPE_CHECKING:
    from esper.tolaria.guard import TrainerBreaker


INTERRUPTED: Final = ("interrupted", "asked to stop")


FOR_EVER_S: Final = 86_400.0


"""A wait "without a timeout" that every threading primitive still accepts."""


@dataclass(frozen=True, slots=True)
class Request:
    """A command that arrived: its `event`, or where that must not even be tried `rejected`, with the reason.

    A `settled` command was applied or rejected when this was recorded: it was judged then and is not judged again.
    """

    event: Event | None = None
    rejected: CommandRejected | None = None
    settled: bool = False


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """The checkpoint at which a run begins, where that is not its first step; `snapshot` is its state.

    `before` is the fold of the recorded facts up to there, `digest` the recorded digest of that state, `checkpoints`
    what was kept by then, and `reason` why the checkpoint was saved.
    """

    snapshot: Snapshot
    before: RunState
    digest: Event | None
    checkpoints: Sequence[Checkpoint]
    reason: str


@dataclass(frozen=True, slots=True)
class RecordedFork:
    """A fork on record that begins here, with the commands that came with it."""

    started: Event
    commands: Sequence[Request]


@dataclass(frozen=True, slots=True)
class NewFork:
    """A fork that begins here; `shared` is the last fact that it has in common with its parent."""

    fork: Fork
    shared: Event


class World(Protocol):
    """Everything that a run does not compute from its own state. An argument `found` is what was measured just now.

    Methods that compare raise Diverged where the run does not come to what was recorded.
    """

    @property
    def outside(self) -> Outside:
        """Log, clock and the rest."""

    @property
    def incarnation(self) -> int:
        """The number of this process among those that trained the run, from 1 on."""

    @property
    def sequence(self) -> int:
        """The sequence of the run's last fact, 0 before the first."""

    @property
    def published(self) -> int:
        """How many events this process put on the log."""

    @property
    def start(self) -> StartingPoint | None:
        """The checkpoint to begin at; None for the run's first step."""

    def track(self, step: Callable[[], int]) -> None:
        """Give the world a function that returns how many optimiser steps the run has taken."""

    # ------------------------------------------------------------------------------------------- facts and objects

    def publish(self, event: Event) -> Event:
        """Publish an event; returns it as it is on the log, a fact with its sequence."""

    def flush(self) -> None:
        """Wait until the log has every fact that was published."""

    def put(self, content: bytes) -> str:
        """Store an object that a fact refers to; its reference."""

    def compare(self, found: Digest, flat: FlatState) -> None:
        """Compare the state `flat` with the recorded one, before its digest is published."""

    def compare_start(self, found: Digest, flat: FlatState) -> None:
        """Compare the state at the starting point, restored, with the recorded one."""

    # ------------------------------------------------------------------------------------- what other processes decide

    def eventful(self) -> bool:
        """Whether the coming step may have to do with an end, fork, command or target; False spares asking for each."""

    def ending(self) -> tuple[str, str] | None:
        """Status and reason where the run ends before its next step because of something outside of it."""

    def at_target_step(self) -> bool:
        """Whether the run is at the step at which its state was asked for, and so goes no further."""

    def fork_at(self, place: ForkPlace) -> RecordedFork | NewFork | None:
        """The fork that begins at this step and place."""

    def commands(self) -> Iterable[Request]:
        """The commands that arrived since the last step."""

    def emergencies(self) -> Sequence[Heard]:
        """The conservative emergencies that were heard since the last step; those that halt are an `ending`."""

    def await_command(self, timeout_s: float) -> None:
        """Wait until a command has arrived, at most so long."""

    def answer(self, packet_id: bytes, timeout_s: float | None) -> Answer | None:
        """Tamiyo's answer to a packet; None where there was none in time."""

    def command_of(self, answer: Answer, now_ns: int) -> Iterable[Request]:
        """The command of an answer, its age judged at `now_ns`; none where nothing was decided or it came before."""

    def refused(self, event: Event, refusal: CommandRefused) -> CommandRejected:
        """The rejection of a command that the run cannot apply."""

    # ----------------------------------------------------------------------- what depends on a clock or on this machine

    def trouble(self, found: str) -> str:
        """Why the step must not be taken; an empty string for a good step."""

    def verdict(self, found: GateEvaluated) -> GateEvaluated:
        """The verdict of a gate, which may depend on a measured latency."""

    def opened(self, found: Mapping[str, BreakerChanged]) -> dict[str, BreakerChanged]:
        """The isolation breakers that opened during this step, by seed."""

    def breaker_changes(
        self, breaker: TrainerBreaker, find: Callable[[], list[BreakerChanged]], *, failure: bool = False
    ) -> list[BreakerChanged]:
        """The changes of a breaker that was polled, or noted a success or `failure`; live they are those of `find`."""

    def rates_undone(self, found: list[LearningRateChanged]) -> list[LearningRateChanged]:
        """The learning rates that were written from outside the controller and put right again."""

    def hook_ms(self, found: float) -> float:
        """How long the epoch hook took, in milliseconds."""

    # ---------------------------------------------------------------------------------------------- kernels and states

    def kernel(self, seed_id: str, find: Callable[[], Verified | Unusable | None]) -> Verified | Unusable | None:
        """The kernel that a seed germinates with; live it is `find` that asks the library."""

    def swaps(self) -> Sequence[Event]:
        """The kernel swaps that were recorded at this step."""

    def library(self) -> KernelSource | None:
        """The library to look for compiled kernels in; None where there is nothing to look for."""

    def save_checkpoint(self, snapshot: Snapshot) -> Checkpoint:
        """Store a state durably."""

    def surplus(self, found: Sequence[Checkpoint]) -> Sequence[Checkpoint]:
        """The checkpoints to delete now; `found` are those that are kept no longer."""

    def delete_checkpoint(self, saved: Checkpoint) -> int:
        """Remove a checkpoint; returns the bytes that became free."""

    def remember(self, snapshot: Snapshot) -> None:
        """Offer a state that the run may go back to later."""

    def rewinds(self, found: bool) -> bool:  # noqa: FBT001 - what was found, as everywhere here
        """Whether the run goes back to before a seed whose proof failed; `found` says whether that state is there."""

    def rollback_target(self) -> tuple[str, Snapshot] | None:
        """Level and state of the recorded rollback that comes next; None where the run chooses both itself."""


class LiveWorld:
    """The world as it is now: facts go to the log, commands and answers come from it, time is read off the clock."""

    start: Final = None

    def __init__(self, outside: Outside, *, incarnation: int = 1) -> None:
        self.outside = outside
        self.incarnation = incarnation
        self.sequence = 0
        self.published = 0
        self._taken: list[Signed] = []
        """Commands that the log has given and nobody has judged yet."""
        self._stop: bool | None = None
        """What `eventful` was told just now, so that each step asks once."""
        self._heard: list[Heard] = []
        """Emergencies that nobody has heeded yet."""

    def track(self, step: Callable[[], int]) -> None:
        """Nothing: what happens now happens at whatever step the run is."""

    def publish(self, event: Event) -> Event:
        """Number a fact, and hand the event to the log; an emergency is critical unless it has a high priority.

        A run's start is a claim: it waits until the run is this process's, and raises Superseded where it is another's.
        """
        topic = topic_of(event)
        if topic is RUNS:
            self.sequence += 1
            event.sequence = self.sequence
        elif topic is EMERGENCY:
            if event.priority < MESSAGE_PRIORITY_HIGH:
                event.priority = MESSAGE_PRIORITY_CRITICAL
            if self.outside.alarms is not None and event.HasField("emergency_signal"):
                self.outside.alarms.told(event.emergency_signal)  # first: the log may be what has failed
        if event.HasField("run_started"):
            self.outside.log.claim(event)
        else:
            self.outside.log.publish(event)
        self.published += 1
        return event

    def flush(self) -> None:
        """Wait for the log's acknowledgement; raises LogUnavailable where it takes too long."""
        self.outside.log.flush()

    def put(self, content: bytes) -> str:
        """Store it."""
        return self.outside.objects.put(content)

    def compare(self, found: Digest, flat: FlatState) -> None:
        """Nothing: there is no record."""

    def compare_start(self, found: Digest, flat: FlatState) -> None:
        """Nothing: there is no record."""

    def eventful(self) -> bool:
        """Whether the process was asked to stop, a command has arrived, or an emergency was heard."""
        self._stop = self.outside.should_stop()
        if not self._stop:
            self._taken += self.outside.log.take_commands()
            self._hear()
        return self._stop or bool(self._taken) or bool(self._heard)

    def ending(self) -> tuple[str, str] | None:
        """An interruption where the process was asked to stop, or an emergency halts the run."""
        asked, self._stop = self._stop, None
        if self.outside.should_stop() if asked is None else asked:
            return INTERRUPTED
        if asked is None:
            self._hear()
        halts = (heard.reason for heard in self._heard if heard.level >= EMERGENCY_LEVEL_HALT)
        return next((("interrupted", f"{HALTED}{reason}") for reason in halts), None)

    def _hear(self) -> None:
        if self.outside.alarms is not None and (heard := self.outside.alarms.heard()):
            self._heard += [each for each in heard if each.level >= EMERGENCY_LEVEL_CONSERVATIVE]

    def at_target_step(self) -> bool:
        """Never."""
        return False

    def fork_at(self, _place: ForkPlace) -> None:
        """Never: only a recorded run is left as another one."""
        return

    def commands(self) -> Iterator[Request]:
        """The commands that the log has, each checked by the verifier just before it is applied."""
        if not self._taken:
            self._taken += self.outside.log.take_commands()
        while self._taken:
            yield from self._judge(self._taken.pop(0), self.outside.clock.wall_ns())

    def emergencies(self) -> Sequence[Heard]:
        """As `outside.alarms` has them."""
        if not self._heard:
            return ()
        heard, self._heard = self._heard, []
        return heard

    def await_command(self, timeout_s: float) -> None:
        """On the log."""
        self.outside.log.await_command(timeout_s)

    def answer(self, packet_id: bytes, timeout_s: float | None) -> Answer | None:
        """Wait for it."""
        return self.outside.log.await_answer(packet_id, FOR_EVER_S if timeout_s is None else timeout_s)

    def command_of(self, answer: Answer, now_ns: int) -> Iterator[Request]:
        """Judged by the verifier."""
        if answer.command is not None:
            yield from self._judge(answer.command, now_ns)

    def _judge(self, signed: Signed, now_ns: int) -> Iterator[Request]:
        """The command with the verifier's verdict; nothing for a duplicate, which leaves no trace."""
        verdict = self._verdict(signed, now_ns)
        if verdict.rejected:
            rejected = CommandRejected(
                command_id=verdict.command_id, reason=verdict.outcome, detail=verdict.detail, critical=True
            )
            yield Request(rejected=rejected)
        elif verdict.event is not None:
            yield Request(verdict.event)

    def _verdict(self, signed: Signed, now_ns: int) -> Verdict:
        if self.outside.verifier is not None:
            return self.outside.verifier.verify(signed, now_ns=now_ns)
        event = parse(signed.payload)
        return Verdict("accepted", "", ids.from_text(event.adaptation_command.command_id), event)

    def refused(self, event: Event, refusal: CommandRefused) -> CommandRejected:
        """With the reason that the run gave."""
        command = event.adaptation_command
        return CommandRejected(
            command_id=ids.from_text(command.command_id),
            reason=refusal.reason,
            detail=refusal.detail,
            critical=refusal.critical,
            seed_id=command.target_seed_id,
        )

    def trouble(self, found: str) -> str:
        """As found."""
        return found

    def verdict(self, found: GateEvaluated) -> GateEvaluated:
        """As found."""
        return found

    def opened(self, found: Mapping[str, BreakerChanged]) -> dict[str, BreakerChanged]:
        """As found."""
        return dict(found)

    def breaker_changes(
        self,
        _breaker: TrainerBreaker,
        find: Callable[[], list[BreakerChanged]],
        *,
        failure: bool = False,  # noqa: ARG002 - `find` counts it
    ) -> list[BreakerChanged]:
        """As the breaker itself finds."""
        return find()

    def rates_undone(self, found: list[LearningRateChanged]) -> list[LearningRateChanged]:
        """As found."""
        return found

    def hook_ms(self, found: float) -> float:
        """As measured."""
        return found

    def kernel(self, _seed_id: str, find: Callable[[], Verified | Unusable | None]) -> Verified | Unusable | None:
        """As the library has it."""
        return find()

    def swaps(self) -> Sequence[Event]:
        """None: the library is asked instead."""
        return ()

    def library(self) -> KernelSource | None:
        """The one of outside."""
        return self.outside.library

    def save_checkpoint(self, snapshot: Snapshot) -> Checkpoint:
        """In the object store."""
        return store_checkpoint(self.outside.objects, snapshot.flat, snapshot.root, snapshot.position)

    def surplus(self, found: Sequence[Checkpoint]) -> Sequence[Checkpoint]:
        """As found."""
        return found

    def delete_checkpoint(self, saved: Checkpoint) -> int:
        """From the object store."""
        return delete_checkpoint(self.outside.objects, saved)

    def remember(self, snapshot: Snapshot) -> None:
        """Nothing: the run keeps its newest states itself."""

    def rewinds(self, found: bool) -> bool:  # noqa: FBT001
        """As found."""
        return found

    def rollback_target(self) -> tuple[str, Snapshot] | None:
        """None: the run goes back to its newest state."""
        return None


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
        return ids.uuid7(self._clock.wall_ns(), secrets.token_bytes(10))

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
