"""A run trained again from its record, and compared with it at every fact, digest and decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from esper.errors import InvalidInput
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import Signed
from esper.record import Recorded, sequence_at_step
from esper.tamiyo.rederive import rederived
from esper.tolaria.config import RunConfig
from esper.tolaria.divergence import Diverged, Divergence, Place
from esper.tolaria.ports import Answer, Clock
from esper.tolaria.retrace import nearest, retrace
from esper.tolaria.tasks.task import Task
from esper.tolaria.train import train


class Nowhere:
    """A log that takes nothing and says nothing: what lies beyond the end of a record is nobody's history."""

    def publish(self, event: Event) -> None:
        """Forget it."""

    def flush(self, timeout_s: float = 30.0) -> None:
        """Nothing waits."""

    def await_answer(self, packet_id: bytes, timeout_s: float) -> Answer | None:  # noqa: ARG002
        """Nobody answers."""
        return None

    def take_commands(self) -> list[Signed]:
        """Nobody asks for anything."""
        return []

    def shed(self) -> int:
        """Nothing is counted."""
        return 0


@dataclass(slots=True)
class Replayed:
    """How far a replay came. `from_step` is where it began, `step` where it is."""

    from_step: int = 0
    step: int = 0
    steps: int = 0
    facts: int = 0
    digests_checked: int = 0
    decisions_checked: int = 0
    decisions_of_another_policy: int = 0
    diverged: Divergence | None = None
    wall_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "digests_checked": self.digests_checked,
            "decisions_checked": self.decisions_checked,
            "decisions_of_another_policy": self.decisions_of_another_policy,
            "facts_checked": self.facts,
            "from_step": self.from_step,
            "to_step": self.step,
            "steps": self.steps,
            "wall_s": round(self.wall_s, 3),
            "diverged": self.diverged is not None,
            "place": None if self.diverged is None else self.diverged.to_dict(),
        }


def replay_run(
    recorded: Recorded,
    task: Task,
    *,
    objects: ObjectStore,
    clock: Clock,
    from_step: int = 0,
    to_step: int | None = None,
    watch: Callable[[Replayed], None] = lambda _progress: None,
) -> Replayed:
    """Train `recorded` again from the nearest kept checkpoint at or before `from_step`, up to `to_step` or its end.

    Nothing is written anywhere. Ends at the first divergence. `watch` is shown the progress after every fact. Raises
    InvalidInput where the record lacks what it takes, and whatever the model raises where it did not raise that before.
    """
    last = recorded.facts[-1].sequence if to_step is None else sequence_at_step(recorded.state, to_step)
    start = nearest(recorded, objects, step=from_step, sequence=last)
    began = clock.monotonic()
    progress = Replayed(from_step=0 if start is None else start.checkpoint_saved.step)
    progress.digests_checked = int(start is not None)  # the one of the state that it begins with

    def followed(fact: Event) -> None:
        progress.facts += 1
        progress.digests_checked += fact.HasField("state_digested")
        progress.steps += max(0, fact.global_step - progress.step) if progress.facts > 1 else 0
        progress.step = fact.global_step
        progress.wall_s = clock.monotonic() - began
        if fact.HasField("epoch_completed") and fact.event_id in recorded.decisions:
            _check_decision(recorded.decisions[fact.event_id], fact, objects, progress)
        watch(progress)

    begun = recorded.begun(0 if start is None else start.sequence)
    past = retrace(recorded, objects, start=start, upto=last, watch=followed)
    try:
        train(
            RunConfig.from_json(begun.run_started.config_json),
            task,
            Nowhere(),
            clock=clock,
            objects=objects,
            verifier=None,
            run_id=begun.run_id,
            should_stop=lambda: past.over,
            past=past,
        )
        progress.diverged = past.odd
    except Diverged as error:
        progress.diverged = error.divergence
    except Exception:
        if not past.over:
            raise
    progress.wall_s = clock.monotonic() - began
    return progress


def _check_decision(signed: Signed, packet: Event, objects: ObjectStore, progress: Replayed) -> None:
    """Derive a decision again; raises Diverged where it comes out otherwise."""
    made = Event.FromString(signed.payload).decision_made
    try:
        wrong = rederived(made, packet, objects)
    except InvalidInput as error:
        wrong = str(error)
    if wrong is None:
        progress.decisions_of_another_policy += 1
        return
    if wrong:
        raise Diverged(Divergence(Place.of(packet), f"the decision on this packet: {wrong}"))
    progress.decisions_checked += 1
