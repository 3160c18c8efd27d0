"""What a run did before, followed fact by fact: a replay, the way back of a resumed run, the shared part of a fork.

The training loop is the same whether it is live or not. Where the world has a say (a command arrives, a clock runs out,
a loss is no number, somebody asks to stop) it asks its past first. While that goes on, the recorded fact is what
happens, and every fact that the run comes to itself is compared with the one on record instead of being published. Once
it is over, the world is asked. A live run's past is empty and over from the start.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from contracts.leyline.v1.event_pb2 import BreakerChanged, GateEvaluated, KernelAttached
from contracts.leyline.v1.leyline_pb2 import CIRCUIT_BREAKER_STATE_OPEN
from esper.errors import InvalidInput
from esper.leyline.envelope import Event, body_name
from esper.leyline.signing import Signed
from esper.record.run_status import RunState
from esper.tolaria.checkpoint import Checkpoint
from esper.tolaria.divergence import Diverged, Divergence, Place, difference_of, tampered
from esper.tolaria.ports import Answer
from esper.tolaria.snapshots import Snapshot
from esper.tolaria.state_tree import Digest, FlatState

ISOLATION: Final = "gradient_isolation/"
_BUNCH_ENDS: Final = ("epoch_completed", "state_digested", "checkpoint_saved", "rolled_back", "run_finished")
"""What is told at once ends before one of these."""

Parts = Callable[[str], Mapping[str, str]]
States = Callable[[int], FlatState | None]
"""What is kept of recorded states: digests of the parts, by their reference, and the whole after a fact's sequence."""


class Reached(Exception):
    """The run is where whoever follows its record wants to see it; `state` is a copy of what it is there."""

    def __init__(self, state: FlatState) -> None:
        super().__init__("the step that was asked for is reached")
        self.state = state


class Past:
    """The facts to follow, in their order, beginning after `start`, or with the run's first where that is None.

    `anchor` is the recorded digest of that state, `before` the fold of the facts up to it, and `checkpoints` are those
    that were kept by then. `more` is set while the run goes on from here as another one (a fork), and so must not be
    live yet when the facts are at their end. `watch` is told every fact that was followed. `until` is the step, at or
    after the last of the facts, at which the run is looked at instead of going on.
    """

    def __init__(
        self,
        facts: Sequence[Event] = (),
        *,
        start: Snapshot | None = None,
        anchor: Event | None = None,
        checkpoints: Sequence[Checkpoint] = (),
        before: RunState | None = None,
        decisions: Mapping[bytes, Signed] | None = None,
        commands: Mapping[bytes, Signed] | None = None,
        parts: Parts = lambda _reference: {},
        states: States = lambda _sequence: None,
        watch: Callable[[Event], None] = lambda _fact: None,
        more: bool = False,
        until: int | None = None,
    ) -> None:
        self.start = start
        self.until = until
        self.checkpoints = checkpoints
        self._anchor = anchor
        self.before = before or RunState()
        self.more = more
        self.sequence = 0 if start is None else start.position.sequence
        self.last = Event()
        """The fact that was followed last."""
        self.odd: Divergence | None = None
        """The first fact that is not quite the recorded one; the digest that comes next says what it led to."""
        self._facts = facts
        self._next = 0
        self._decisions = decisions or {}
        self._commands = commands or {}
        self._parts = parts
        self._states = states
        self._watch = watch
        self._step: Callable[[], int] = lambda: 0
        self._wanted = {fact.rolled_back.to_sequence for fact in facts if fact.HasField("rolled_back")}
        self._kept: dict[int, Snapshot] = {}
        self._pass_over()

    # ------------------------------------------------------------------------------------------------ where it stands

    @property
    def over(self) -> bool:
        """Whether the run is live."""
        return self._next >= len(self._facts) and not self.more

    @property
    def exhausted(self) -> bool:
        """Whether every recorded fact was followed."""
        return self._next >= len(self._facts)

    @property
    def reached(self) -> bool:
        """Whether the run is at the step at which it is to be looked at."""
        return self.until is not None and self.over and self._step() >= self.until

    def bind(self, step: Callable[[], int]) -> None:
        """`step` says how many optimiser steps the run has taken."""
        self._step = step

    def next(self, *names: str) -> Event | None:
        """The fact that comes next, if its body is one of `names`."""
        if self._next >= len(self._facts):
            return None
        fact = self._facts[self._next]
        return fact if body_name(fact) in names else None

    def here(self, *names: str) -> Event | None:
        """As `next`, if it happened at the step where the run is now."""
        fact = self.next(*names)
        return fact if fact is not None and fact.global_step == self._step() else None

    # ---------------------------------------------------------------------------------- what the world said, by record

    def trouble(self, found: str) -> str:
        """Why the step must not be taken; what was `found` counts once the past is over."""
        if self.over:
            return found
        fact = self.next("rolled_back")
        if fact is None or fact.rolled_back.reason == "command" or fact.rolled_back.from_step != self._step():
            return ""
        return fact.rolled_back.reason

    def ending(self) -> tuple[str, str] | None:
        """Status and reason where the run was ended from outside, or by its own model, at this step."""
        fact = self.here("run_finished")
        if fact is None or fact.run_finished.status == "completed":
            return None
        return fact.run_finished.status, fact.run_finished.reason

    def answer(self, packet_id: bytes) -> Answer | None:
        """What answered a packet; None where nothing did in time. Raises InvalidInput where the decision is missing."""
        if self.next("decision_timed_out"):
            return None
        decision = self._decisions.get(packet_id)
        if decision is None:
            raise InvalidInput(f"the decision on packet {packet_id.hex()} is not in the archive")
        command_id = Event.FromString(decision.payload).decision_made.command_id
        return Answer(decision, self._commands.get(command_id) if command_id else None)

    def command(self, command_id: bytes) -> Event:
        """An applied command; raises InvalidInput where it is missing."""
        if command_id not in self._commands:
            raise InvalidInput(f"command {command_id.hex()} was applied and is not in the archive")
        return Event.FromString(self._commands[command_id].payload)

    def hook_ms(self, found: float) -> float:
        """How long the hook of this epoch took: the next packet says it."""
        ahead = itertools.islice(self._facts, self._next, None)
        fact = next((fact for fact in ahead if fact.HasField("epoch_completed")), None)
        return found if fact is None else fact.epoch_completed.hook_ms_before

    def verdict(self, found: GateEvaluated) -> GateEvaluated:
        """Kasmina's witness: the recorded verdict of this gate on this seed, with its figures."""
        for fact in self._bunch():
            recorded = fact.gate_evaluated
            if (recorded.seed_id, recorded.gate, recorded.life) == (found.seed_id, found.gate, found.life):
                return GateEvaluated.FromString(recorded.SerializeToString())
        return found

    def opened(self, found: Mapping[str, BreakerChanged]) -> dict[str, BreakerChanged]:
        """Kasmina's witness: the isolation breakers that opened, by record."""
        if self.over:
            return dict(found)
        changes = [fact.breaker_changed for fact in self._bunch() if fact.global_step == self._step()]
        return {
            change.breaker.removeprefix(ISOLATION): change
            for change in changes
            if change.breaker.startswith(ISOLATION) and change.to_state == CIRCUIT_BREAKER_STATE_OPEN
        }

    def attached(self, seed_id: str) -> KernelAttached | None:
        """The kernel that a seed germinates with now, by record; None where the record has none."""
        kernels = (fact.kernel_attached for fact in self._bunch() if fact.HasField("kernel_attached"))
        return next((kernel for kernel in kernels if kernel.seed_id == seed_id), None)

    def _bunch(self) -> Iterator[Event]:
        """The facts that are told together, from the next one on."""
        ahead = itertools.islice(self._facts, self._next, None)
        return itertools.takewhile(lambda fact: body_name(fact) not in _BUNCH_ENDS, ahead)

    # ------------------------------------------------------------------------------------------------------- following

    def follow(self, event: Event) -> Event:
        """The recorded fact in the place of `event`, which the run came to itself.

        Raises Diverged where the record says that something else happened.
        """
        name = body_name(event)
        fact = self._facts[self._next] if self._next < len(self._facts) else None
        if fact is None or body_name(fact) != name:
            recorded = "nothing more" if fact is None else f"{body_name(fact)} at step {fact.global_step}"
            raise self.diverged(f"the run comes to {name} at step {event.global_step}, the record has {recorded}")
        if self.odd is None and (what := tampered(event, fact)):
            self.odd = Divergence(Place.of(fact), what)
        self._next += 1
        self.sequence, self.last = fact.sequence, fact
        self._pass_over()
        self._watch(fact)
        return fact

    def examine(self, found: Digest, flat: FlatState) -> None:
        """Compare the state that the run has with the recorded digest that comes next; raises Diverged."""
        self._compare(self.next("state_digested"), found, flat)

    def examine_start(self, found: Digest, flat: FlatState) -> None:
        """Compare the state that the run begins with, restored, with the digest that was recorded; raises Diverged."""
        self._compare(self._anchor, found, flat)

    def _compare(self, fact: Event | None, found: Digest, flat: FlatState) -> None:
        if fact is None or fact.state_digested.root == found.root:
            return
        recorded = self._parts(fact.state_digested.tensors_ref)
        divergence = difference_of(Place.of(fact), found, recorded, flat, self._states(fact.sequence))
        raise Diverged(divergence if self.odd is None else self.odd.led_to(divergence))

    def diverged(self, what: str) -> Diverged:
        """The error to raise where the run does something else than the record says."""
        fact = self._facts[min(self._next, len(self._facts) - 1)]
        return Diverged(self.odd or Divergence(Place.of(fact), what))

    def remember(self, snapshot: Snapshot) -> None:
        """Keep a state if the record goes back to it later."""
        if snapshot.position.sequence in self._wanted:
            self._kept[snapshot.position.sequence] = snapshot

    def kept(self, sequence: int) -> Snapshot:
        """The state that a recorded rollback goes back to."""
        if sequence not in self._kept:
            raise self.diverged(f"the record rolls back to sequence {sequence}, which lies before where this began")
        return self._kept[sequence]

    def _pass_over(self) -> None:
        """A claim is no event of the training: the run is as it was."""
        while self._next < len(self._facts) and self._facts[self._next].HasField("run_resumed"):
            self.last = self._facts[self._next]
            self.sequence = self.last.sequence
            self._next += 1
