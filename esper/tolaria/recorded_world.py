"""The world as a run's record has it: for a replay, the recorded stretch of a resumed run, the shared part of a fork.

A run is a function of its first fact and of what the world answers. So a run whose world answers from its record comes
to the same facts again, bit for bit. Each fact that it comes to is compared with the recorded one and not published.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from contracts.leyline.v1.event_pb2 import (
    BreakerChanged,
    CommandRejected,
    GateEvaluated,
    KernelAttached,
    LearningRateChanged,
)
from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_OPEN, EMERGENCY_LEVEL_CONSERVATIVE
from contracts.topics import RUNS
from esper.errors import InvalidInput
from esper.kasmina.commands import CommandRefused
from esper.kasmina.kernels import Unusable, Verified
from esper.leyline.envelope import Event, body_name, topic_of
from esper.leyline.signing import Signed
from esper.tolaria.divergence import Diverged, Divergence, Place, RecordEnded, difference_of, tampered
from esper.tolaria.fork_change import Fork, ForkPlace
from esper.tolaria.guard import ALARM, ISOLATION, TrainerBreaker
from esper.tolaria.kept import GERMINATION
from esper.tolaria.kernels import recalled
from esper.tolaria.learning_rate import UNDONE
from esper.tolaria.outside import Answer, Heard, KernelSource, Outside
from esper.tolaria.state import Checkpoint, Digest, FlatState, Position, Snapshot
from esper.tolaria.world import LiveWorld, NewFork, RecordedFork, Request, StartingPoint

_GROUP_ENDS: Final = ("epoch_completed", "state_digested", "checkpoint_saved", "rolled_back", "run_finished")
"""Facts that are published together end before one of these."""

_BOUNDARIES: Final = ("epoch_completed", "rolled_back", "run_finished", "run_started")
"""Commands after one of these arrived at another time, even where the step is the same."""


@dataclass(frozen=True, slots=True)
class Record:
    """The records of a run other than its facts.

    `decisions` by the packet that they answer, `commands` by their id. `tensor_digests` gives the digests of a state's
    tensors by their reference, `state_after` the whole state after a fact's sequence where it is still kept.
    """

    decisions: Mapping[bytes, Signed]
    commands: Mapping[bytes, Signed]
    tensor_digests: Callable[[str], Mapping[str, str]]
    state_after: Callable[[int], FlatState | None]


class RecordedWorld:
    """Answers from `facts`, in their order, and from `live` when all of them were followed.

    `facts` come after `start`, or begin with the run's first where that is None. A `claim` among them is published when
    the run comes to it, all before it being compared. With a `fork`, the run becomes that fork after the last fact.
    `watch` is called with every fact that was followed. `target_step` is the step, at or after the last fact, at which
    the state is asked for.
    """

    def __init__(
        self,
        facts: Sequence[Event],
        record: Record,
        live: LiveWorld,
        *,
        start: StartingPoint | None = None,
        claim: Event | None = None,
        fork: Fork | None = None,
        watch: Callable[[Event], None] = lambda _fact: None,
        target_step: int | None = None,
    ) -> None:
        self.start = start
        self.first_difference: Divergence | None = None
        """The first fact that is not quite the recorded one; the digest that comes next says what it led to."""
        self._live = live
        self._facts = facts
        self._record = record
        self._claim = claim
        self._fork = fork
        self._watch = watch
        self._target_step = target_step
        self._next = self._claimed = 0
        self._last = Event()
        self._step: Callable[[], int] = lambda: 0
        self._wanted = {fact.rolled_back.to_sequence for fact in facts if fact.HasField("rolled_back")}
        self._kept: dict[int, Snapshot] = {}
        live.sequence = 0 if start is None else start.snapshot.position.sequence
        self._pass_over_claims()

    # ------------------------------------------------------------------------------------------------ where it stands

    @property
    def over(self) -> bool:
        """Whether the live world answers now: every fact was followed, and no fork is yet to begin."""
        return self._exhausted and self._fork is None

    @property
    def end(self) -> Event | None:
        """The fact that comes next, where that says that the run failed here or was interrupted."""
        end = self._coming("run_finished")
        early = end is not None and end.run_finished.status != "completed" and self._step() >= end.global_step
        return end if early else None

    @property
    def outside(self) -> Outside:
        """That of the live world."""
        return self._live.outside

    @property
    def incarnation(self) -> int:
        """That of the live world."""
        return self._live.incarnation

    @property
    def sequence(self) -> int:
        """Of the fact that was followed or published last."""
        return self._live.sequence

    @property
    def published(self) -> int:
        """The count of the live world, and the claim: recorded facts are on the log already."""
        return self._live.published + self._claimed

    def track(self, step: Callable[[], int]) -> None:
        """Follow the facts by what `step` says."""
        self._step = step

    @property
    def _exhausted(self) -> bool:
        return self._next >= len(self._facts)

    def _coming(self, *names: str) -> Event | None:
        """The fact that comes next, if its body is one of `names`."""
        if self._exhausted:
            return None
        fact = self._facts[self._next]
        return fact if body_name(fact) in names else None

    def _here(self, *names: str) -> Event | None:
        """As `_coming`, if it happened at the step where the run is now."""
        fact = self._coming(*names)
        return fact if fact is not None and fact.global_step == self._step() else None

    def _ahead(self, after: int = 0) -> Iterator[Event]:
        """The facts that were not followed yet, without the first `after`."""
        return itertools.islice(self._facts, self._next + after, None)

    def _here_in_a_row(self, name: str) -> Iterator[Event]:
        """The next facts as long as they are of this name and of the step where the run is now."""
        step = self._step()
        return itertools.takewhile(lambda fact: body_name(fact) == name and fact.global_step == step, self._ahead())

    def _group(self) -> Iterator[Event]:
        """The facts that were published together, from the next one on."""
        return itertools.takewhile(lambda fact: body_name(fact) not in _GROUP_ENDS, self._ahead())

    # ------------------------------------------------------------------------------------------- facts and objects

    def publish(self, event: Event) -> Event:
        """Compare a fact with the recorded one in its place and return that one; drop any other event.

        Raises Diverged where the record has something else there, RecordEnded where the run failed there, or was
        interrupted, by what it does not meet now.
        """
        if self.over:
            return self._live.publish(event)
        return self._follow(event) if topic_of(event) is RUNS else event

    def _follow(self, event: Event) -> Event:
        name = body_name(event)
        fact = self._coming(name)
        if fact is None:
            raise self._unexpected(name)
        if self.first_difference is None and (what := tampered(event, fact)):
            self.first_difference = Divergence(Place.of(fact), what)
        self._move_past(fact)
        self._pass_over_claims()
        self._watch(fact)
        return fact

    def _move_past(self, fact: Event) -> None:
        self._next += 1
        self._last = fact
        self._live.sequence = fact.sequence

    def _pass_over_claims(self) -> None:
        """A claim is no event of the training, and leaves the run as it was."""
        while (claim := self._coming("run_resumed")) is not None:
            if claim is self._claim:
                self.outside.log.claim(claim)
                self._claimed = 1
            self._move_past(claim)

    def flush(self) -> None:
        """Wait for what the live world published, which may be nothing yet."""
        self._live.flush()

    def put(self, content: bytes) -> str:
        """Store nothing while a record is followed: the object was stored when the fact was published."""
        return self._live.put(content) if self.over else ""

    def compare(self, found: Digest, flat: FlatState) -> None:
        """Raise Diverged where the recorded digest that comes next is another."""
        self._compare(self._coming("state_digested"), found, flat)

    def compare_start(self, found: Digest, flat: FlatState) -> None:
        """Raise Diverged where the digest that was recorded for the starting point is another."""
        self._compare(None if self.start is None else self.start.digest, found, flat)

    def _compare(self, fact: Event | None, found: Digest, flat: FlatState) -> None:
        if fact is None or fact.state_digested.root == found.root:
            return
        recorded = self._record.tensor_digests(fact.state_digested.tensors_ref)
        then = self._record.state_after(fact.sequence)
        divergence = difference_of(Place.of(fact), found, recorded, flat, then)
        raise Diverged(divergence if self.first_difference is None else self.first_difference.led_to(divergence))

    def _unexpected(self, name: str) -> Diverged | RecordEnded:
        """The error to raise where the run comes to something else than the fact that comes next."""
        if self.end is not None:
            return RecordEnded(self.end)
        fact = None if self._exhausted else self._facts[self._next]
        recorded = "nothing more" if fact is None else f"{body_name(fact)} at step {fact.global_step}"
        return self._diverged(f"the run comes to {name} at step {self._step()}, the record has {recorded}")

    def _diverged(self, what: str) -> Diverged:
        """The error to raise where the run does something else than the record says."""
        fact = self._facts[min(self._next, len(self._facts) - 1)]
        return Diverged(self.first_difference or Divergence(Place.of(fact), what))

    # ------------------------------------------------------------------------------------- what other processes decide

    def eventful(self) -> bool:
        """Always while the record is followed, or where a target is set; then as the live world finds."""
        return not self.over or self._target_step is not None or self._live.eventful()

    def ending(self) -> tuple[str, str] | None:
        """The recorded end, if the run was ended at this step from outside or by an exception of its model."""
        if self.over:
            return self._live.ending()
        fact = self._here("run_finished")
        if fact is None or fact.run_finished.status == "completed":
            return None
        return fact.run_finished.status, fact.run_finished.reason

    def at_target_step(self) -> bool:
        """Whether all facts up to the target step were followed and it is reached."""
        return self._target_step is not None and self.over and self._step() >= self._target_step

    def fork_at(self, place: ForkPlace) -> RecordedFork | NewFork | None:
        """The fork on record, wherever it began at this step; or the new one, when its place is reached."""
        started = self._here("run_started") if self.sequence else None
        if started is not None:
            return RecordedFork(started, self._commands_here(after=1))
        fork = self._fork
        if fork is None or not self._exhausted or (fork.step, fork.place) != (self._step(), place):
            return None
        self._fork = None
        return NewFork(fork, self._last)

    def commands(self) -> Iterator[Request]:
        """Those that were applied or rejected at this step; after the last fact also those that arrive now."""
        yield from self._commands_here()
        if self.over:
            yield from self._live.commands()

    def emergencies(self) -> Sequence[Heard]:
        """The one on record that comes next; after the last fact also what is heard now."""
        if self.over:
            return self._live.emergencies()
        fact = self._here("breaker_changed")
        return [] if fact is None or not _is_emergency(fact) else [_heard(fact)]

    def await_command(self, timeout_s: float) -> None:
        """Wait for nothing while a record is followed: it has what came."""
        if self.over:
            self._live.await_command(timeout_s)

    def command_of(self, answer: Answer, now_ns: int) -> Iterable[Request]:
        """The recorded command, if it was applied or rejected."""
        return self._live.command_of(answer, now_ns) if self.over else self._commands_here()

    def _commands_here(self, after: int = 0) -> list[Request]:
        """The commands on record at this step, beginning behind the next `after` facts."""
        found = []
        for fact in self._ahead(after):
            end_of_epoch = fact.HasField("state_digested") and fact.state_digested.occasion == "epoch"
            if fact.global_step != self._step() or body_name(fact) in _BOUNDARIES or end_of_epoch:
                break
            if _is_emergency(fact):
                break  # heard while the run stood still: it comes between the commands
            if fact.HasField("command_applied"):
                found.append(Request(self._command(fact.command_applied.command_id), settled=True))
            elif fact.HasField("command_rejected"):
                found.append(Request(rejected=fact.command_rejected, settled=True))
        return found

    def _command(self, command_id: bytes) -> Event:
        if command_id not in self._record.commands:
            raise InvalidInput(f"command {command_id.hex()} was applied and is not in the archive")
        return Event.FromString(self._record.commands[command_id].payload)

    def answer(self, packet_id: bytes, timeout_s: float | None) -> Answer | None:
        """The recorded answer; None where none came in time. Raises InvalidInput where the decision is missing."""
        if self.over:
            return self._live.answer(packet_id, timeout_s)
        if self._coming("decision_timed_out"):
            return None
        decision = self._record.decisions.get(packet_id)
        if decision is None and self._coming("run_finished"):
            raise self._unexpected("decision_made")
        if decision is None:
            raise InvalidInput(f"the decision on packet {packet_id.hex()} is not in the archive")
        command_id = Event.FromString(decision.payload).decision_made.command_id
        return Answer(decision, self._record.commands.get(command_id) if command_id else None)

    def refused(self, event: Event, refusal: CommandRefused) -> CommandRejected:
        """Raise Diverged: the command was applied when this was recorded."""
        if self.over:
            return self._live.refused(event, refusal)
        raise self._diverged(f"a command that was applied is refused: {refusal}")

    # ----------------------------------------------------------------------- what depends on a clock or on this machine

    def trouble(self, found: str) -> str:
        """The reason of the rollback that comes next, if it was for trouble at this step."""
        if self.over:
            return found
        fact = self._coming("rolled_back")
        if (
            fact is None
            or fact.rolled_back.reason == "command"
            or fact.rolled_back.seed_id
            or fact.rolled_back.from_step != self._step()
        ):
            return ""
        return fact.rolled_back.reason

    def verdict(self, found: GateEvaluated) -> GateEvaluated:
        """The recorded verdict of this gate on this seed, with its figures."""
        for fact in self._group():
            recorded = fact.gate_evaluated
            if (recorded.seed_id, recorded.gate, recorded.life) == (found.seed_id, found.gate, found.life):
                return GateEvaluated.FromString(recorded.SerializeToString())
        return found

    def opened(self, found: Mapping[str, BreakerChanged]) -> dict[str, BreakerChanged]:
        """The isolation breakers that the record opens at this step."""
        if self.over:
            return dict(found)
        changes = [fact.breaker_changed for fact in self._group() if fact.global_step == self._step()]
        return {
            change.breaker.removeprefix(ISOLATION): change
            for change in changes
            if change.breaker.startswith(ISOLATION) and change.to_state == CIRCUIT_BREAKER_STATE_OPEN
        }

    def breaker_changes(
        self, breaker: TrainerBreaker, find: Callable[[], list[BreakerChanged]], *, failure: bool = False
    ) -> list[BreakerChanged]:
        """The change that the record has of this breaker here; a failure counts when the run is live again."""
        if self.over:
            return find()
        if failure:
            breaker.count_failure()
        fact = self._here("breaker_changed")
        if fact is None or fact.breaker_changed.breaker != breaker.name:
            return []
        change = BreakerChanged.FromString(fact.breaker_changed.SerializeToString())
        breaker.force(change.to_state, change.reason)
        return [change]

    def rates_undone(self, found: list[LearningRateChanged]) -> list[LearningRateChanged]:
        """The outside writes on record at this step."""
        if self.over:
            return found
        changes = [fact.learning_rate_changed for fact in self._here_in_a_row("learning_rate_changed")]
        return list(itertools.takewhile(lambda change: change.reason == UNDONE, changes))

    def hook_ms(self, found: float) -> float:
        """The figure that the next recorded packet gives."""
        fact = next((fact for fact in self._ahead() if fact.HasField("epoch_completed")), None)
        return found if fact is None else fact.epoch_completed.hook_ms_before

    # ---------------------------------------------------------------------------------------------- kernels and states

    def kernel(self, seed_id: str, find: Callable[[], Verified | Unusable | None]) -> Verified | Unusable | None:
        """The kernel that was attached, from the object store."""
        if self.over:
            return find()
        attached = self._attached(seed_id)
        return None if attached is None else recalled(self.outside.objects, attached)

    def _attached(self, seed_id: str) -> KernelAttached | None:
        ahead = itertools.dropwhile(_is_pin, self._ahead())  # the state before it is kept before it is told
        group = itertools.takewhile(lambda fact: body_name(fact) not in _GROUP_ENDS, ahead)
        kernels = (fact.kernel_attached for fact in group if fact.HasField("kernel_attached"))
        return next((kernel for kernel in kernels if kernel.seed_id == seed_id), None)

    def swaps(self) -> Sequence[Event]:
        """The swaps on record at this step."""
        return list(self._here_in_a_row("kernel_swapped"))

    def library(self) -> KernelSource | None:
        """None while the record says which kernels were swapped."""
        return self._live.library() if self.over else None

    def save_checkpoint(self, snapshot: Snapshot) -> Checkpoint:
        """The checkpoint that was saved of this state."""
        if self.over:
            return self._live.save_checkpoint(snapshot)
        fact = self._coming("checkpoint_saved")
        if fact is None:
            raise self._unexpected("checkpoint_saved")
        return Checkpoint(fact.checkpoint_saved.ref, snapshot.position, fact.checkpoint_saved.bytes)

    def surplus(self, found: Sequence[Checkpoint]) -> Sequence[Checkpoint]:
        """Those that were deleted here on record: which are kept is no part of what a run computes."""
        if self.over:
            return found
        run = itertools.takewhile(lambda fact: body_name(fact) == "checkpoint_pruned", self._ahead())
        return [Checkpoint(fact.checkpoint_pruned.ref, _position(fact), 0) for fact in run]

    def delete_checkpoint(self, saved: Checkpoint) -> int:
        """Delete nothing while a record is followed."""
        return self._live.delete_checkpoint(saved) if self.over else 0

    def remember(self, snapshot: Snapshot) -> None:
        """Keep the state if the record goes back to it later."""
        if snapshot.position.sequence in self._wanted:
            self._kept[snapshot.position.sequence] = snapshot

    def keep(self, sequence: int) -> None:
        """Keep the state after this fact, which whoever goes on from there asks for with `kept`."""
        self._wanted.add(sequence)

    def kept(self, sequence: int) -> Snapshot:
        """The state that was come to after this fact; raises Diverged where it was not."""
        if sequence not in self._kept:
            raise self._diverged(f"the run did not come to the state after fact {sequence}, which it was resumed from")
        return self._kept[sequence]

    def rewinds(self, found: bool) -> bool:  # noqa: FBT001
        """Whether it did on record."""
        return found if self.over else self._coming("rolled_back") is not None

    def rollback_target(self) -> tuple[str, Snapshot] | None:
        """The state that the record goes back to; None where the next fact is no rollback."""
        fact = self._coming("rolled_back")
        if fact is None:
            return None
        back = fact.rolled_back
        if back.to_sequence not in self._kept:
            raise self._diverged(f"the record rolls back to sequence {back.to_sequence}, which lies before its start")
        return back.level, self._kept[back.to_sequence]


def _is_emergency(fact: Event) -> bool:
    """Whether a fact says that an emergency of somebody else was heard."""
    change = fact.breaker_changed
    return change.breaker == ALARM and change.to_state == CIRCUIT_BREAKER_STATE_OPEN


def _heard(fact: Event) -> Heard:
    return Heard(EMERGENCY_LEVEL_CONSERVATIVE, fact.breaker_changed.reason, fact.causation_id)


def _position(fact: Event) -> Position:
    """Of a checkpoint that was deleted: its step, and nothing else that is said of it."""
    return Position(fact.run_id, fact.timeline, fact.checkpoint_pruned.step, fact.epoch, 0)


def _is_pin(fact: Event) -> bool:
    """Whether a fact is about the state that is kept from before a germination."""
    kept = GERMINATION in (fact.state_digested.occasion, fact.checkpoint_saved.reason)
    return kept or fact.HasField("checkpoint_pruned")
