"""Runs that are trained here and now: a run whose states can be left, and what becomes of each action in one of them.

A rollout is a fork like any other (`esper.tolaria.resume.fork_run`): it begins at the checkpoint before the decision,
comes to the packet again bit for bit, takes its own action in place of the decision, and goes on with the run's policy
to the end. So it is exact: the action that the run took, in its own order of data, comes to the run's own end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from contracts.leyline.v1.event_pb2 import DecisionMade, EpochCompleted
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from esper.record import Recorded
from esper.simic.memory_log import MemoryLog
from esper.simic.utility import Ending
from esper.tamiyo.serving import Serving
from esper.tolaria.config import RunConfig
from esper.tolaria.fork_change import NO_ACTION, ORDER, read_change
from esper.tolaria.outside import Clock, Outside
from esper.tolaria.resume import fork_run
from esper.tolaria.session import RunResult
from esper.tolaria.tasks.task import Task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld

_NEVER: Final = 10**9


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision of a run: its `packet`, what was `made` of it, and the digest of the state it was made in."""

    packet: Event
    made: DecisionMade

    @property
    def observation(self) -> EpochCompleted:
        """What the policy saw."""
        body: EpochCompleted = self.packet.epoch_completed
        return body

    @property
    def chosen(self) -> str:
        """The action that was taken, in words."""
        return str(self.made.actions[self.made.action])

    @property
    def legal(self) -> list[str]:
        """Every action that might have been taken, in words; nothing is the first."""
        return [action for action, open_ in zip(self.made.actions, self.made.action_mask, strict=True) if open_]


@dataclass(frozen=True, slots=True)
class Lived:
    """A run that was trained to its end, with its record, its decisions in order, and what it came to."""

    recorded: Recorded
    decisions: list[Decided]
    ending: Ending
    digest: bytes


class Rollouts:
    """Trains runs of `task` in this process; their states are kept in `objects`. Torch's thread count is the config's.

    `serving` has the learned policies that may decide. The end of a run is judged on the whole probe set: the test set
    is for reports that nobody learns from.
    """

    def __init__(self, task: Task, objects: ObjectStore, clock: Clock, *, serving: Serving | None = None) -> None:
        self._task = replace(task, test=task.probe)
        self._objects = objects
        self._clock = clock
        self._serving = serving

    def live(self, config: RunConfig, run_id: str) -> Lived:
        """Train a run from its first step, and keep every state that a rollout may begin at."""
        config = replace(
            config, decision_timeout_s=None, keep_checkpoints=0, checkpoint_every_epochs=1, telemetry_every_steps=_NEVER
        )
        log = MemoryLog(self._clock, self._objects, self._serving)
        result = train(config, self._task, LiveWorld(self._outside(log)), run_id=run_id)
        recorded = log.recorded(run_id)
        return Lived(recorded, _decisions(log.events, recorded), ending(result), _last_digest(log.events))

    def roll_out(self, lived: Lived, decided: Decided, action: str, order: int, run_id: str) -> tuple[Ending, bytes]:
        """What becomes of `action` in place of that decision, and the digest of the last state.

        The action is one of `Decided.legal`. `order` 0 is the run's own order of data, any other one of its own from
        the decision on. Raises InvalidInput for an action that cannot be taken there.
        """
        log = MemoryLog(self._clock, self._objects, self._serving)
        words = (NO_ACTION if action == "nothing" else action) + (f"{ORDER}{order}" if order else "")
        outside = self._outside(log)
        step = decided.packet.global_step
        result = fork_run(lived.recorded, run_id, self._task, outside, step=step, change=read_change(words))
        return ending(result), _last_digest(log.events)

    def _outside(self, log: MemoryLog) -> Outside:
        return Outside(log, self._clock, self._objects)


def ending(result: RunResult) -> Ending:
    """What the result of a run says of its worth."""
    spent = result.flops
    return Ending(
        loss=result.test_loss,
        accuracy=result.val_accuracy,
        training_flops=spent.get("training", 0.0) + spent.get("side_pass", 0.0),
        flops=sum(spent.values()),
        params=result.params_final,
        status=result.status,
    )


def _decisions(events: Sequence[Event], recorded: Recorded) -> list[Decided]:
    """The decisions of the surviving timeline."""
    made = {each.decision_made.packet_id: each.decision_made for each in events if each.HasField("decision_made")}
    packets = [fact for fact in recorded.facts if fact.HasField("epoch_completed") and fact.event_id in made]
    return [Decided(packet, made[packet.event_id]) for packet in packets if recorded.state.on_path(packet.sequence)]


def _last_digest(events: Sequence[Event]) -> bytes:
    digests = [event.state_digested.root for event in events if event.HasField("state_digested")]
    return digests[-1] if digests else b""
