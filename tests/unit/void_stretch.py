"""A run of three epochs of which most was cut: a process that was thought dead wrote on, and a rollback went back.

What survives are three epochs, three decisions (one of them to act), one command and one seed's life.
Everything that was derived from a void packet is on the log beside it, as Tamiyo and Nissa answer whatever they read.
"""

from __future__ import annotations

from typing import Any, Final

from contracts.leyline.v1 import event_pb2 as pb
from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.kasmina.lifecycle import DORMANT, GERMINATED
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.tamiyo.reports import report, report_id
from projections.testing import RECORDED_AT_NS, Trainer, Trainers

RUN: Final = "void"
SURVIVING: Final = {"epochs": 3, "decisions": 3, "acted": 1, "commands": 1, "reports": 2, "alerts": 1}
EVERY: Final = {"epochs": 6, "decisions": 6, "acted": 3, "commands": 3, "reports": 2, "alerts": 2}
"""A report on the command that the rollback undid is among the surviving: it says so. The one on the seed
came twice under one id, of the stretch that was cut and again."""


class VoidStretch(Trainers):
    """Its trainers, and what answers them."""

    def __init__(self) -> None:
        super().__init__(RUN)
        started = self.events[0].run_started
        started.policy, started.epochs, started.steps_per_epoch = "heuristic", 3, 10
        for site in started.sites:
            site.shape_kind = "vector"

    def packet(self, trainer: Trainer, epoch: int, *closed: bytes, ended_as: str = "window") -> Event:
        """An epoch's end, at which the windows of these commands closed."""
        trainer.epoch, trainer.step = epoch, 10 * epoch
        asked = {each.event_id: each.adaptation_command.target_seed_id for each in self.events}
        windows = [
            pb.ObservationWindow(
                command_id=each, seed_id=asked[each], blueprint_id="BP009", age_epochs=1, loss_at_open=1.0,
                loss_now=0.5, closed=True, ended_as=ended_as,
            )
            for each in closed
        ]  # fmt: skip
        state = leyline.SystemStatePacket(version=1, current_epoch=epoch, validation_loss=1 / epoch)
        packet = self.publish(trainer, pb.EpochCompleted(state=state, windows=windows, params=1_000))
        packet.correlation_id = packet.event_id
        return packet

    def answered(self, packet: Event, action: str = "nothing") -> Event:
        """Tamiyo's decision on a packet and its reports; returns the decision."""
        acts = action != "nothing"
        command_id = ids.derived_id(packet.event_id, "tamiyo.command", 0) if acts else b""
        made = pb.DecisionMade(
            packet_id=packet.event_id, policy="heuristic", actions=[action], command_id=command_id, reason="so"
        )
        decision = self._told(packet, ids.derived_id(packet.event_id, "tamiyo.decide", 0), packet.event_id, made)
        for window in packet.epoch_completed.windows:
            body = report(window, RUN, packet.recorded_at_ns)
            self._told(packet, report_id(window, RUN), window.command_id, body)
        return decision

    def commanded(self, packet: Event, operation: leyline.SeedOperation, seed_id: str) -> Event:
        """The decision to do something to a seed, and its command; returns the command."""
        verb = leyline.SeedOperation.Name(operation).removeprefix("SEED_OPERATION_").lower()
        decision = self.answered(packet, f"{verb} {seed_id} BP009")
        command_id = decision.decision_made.command_id
        body = leyline.AdaptationCommand(
            version=1,
            command_id=ids.text(command_id),
            command_type=leyline.COMMAND_TYPE_SEED,
            target_seed_id=seed_id,
            issued_by="tamiyo",
            seed_operation=leyline.CommandSeedOperation(operation=operation, blueprint_id="BP009"),
        )
        return self._told(packet, command_id, decision.event_id, body)

    def applied(self, trainer: Trainer, command: Event, *, moves: bool = True) -> None:
        """A trainer carries a command out; `moves` is that the seed germinates."""
        seed_id = command.adaptation_command.target_seed_id
        done = self.publish(trainer, pb.CommandApplied(command_id=command.event_id, seed_id=seed_id))
        done.causation_id, done.correlation_id = command.event_id, command.correlation_id
        if moves:
            moved = self.publish(
                trainer,
                pb.SeedTransitioned(
                    seed_id=seed_id, site="layers.0", from_stage=DORMANT, to_stage=GERMINATED, blueprint_id="BP009",
                    life=1, parameters=7, reason="commanded",
                ),
            )  # fmt: skip
            moved.causation_id, moved.correlation_id = done.event_id, command.correlation_id

    def alerted(self, cause: Event) -> None:
        """Nissa's alert on an event."""
        alert = pb.AlertFired(rule="slow_hook", description="the hook takes long", value=20, threshold=18)
        self._told(cause, ids.derived_id(cause.event_id, "nissa.fired"), cause.event_id, alert, producer="nissa")

    def _told(self, packet: Event, event_id: bytes, cause: bytes, body: Any, *, producer: str = "tamiyo") -> Event:
        event = new_event(
            body,
            event_id=event_id,
            run_id=RUN,
            producer=producer,
            recorded_at_ns=RECORDED_AT_NS + len(self.events) * 1_000_000,
            causation_id=cause,
            correlation_id=packet.correlation_id,
            incarnation=packet.incarnation,
            timeline=packet.timeline,
            global_step=packet.global_step,
            epoch=packet.epoch,
        )
        self.events.append(event)
        return event


def void_stretch() -> list[Event]:
    """The events in the order of the log."""
    run = VoidStretch()
    first = run.trainers[0]
    opened = run.packet(first, 1)
    germinate = run.commanded(opened, leyline.SEED_OPERATION_GERMINATE, "s1")
    run.applied(first, germinate)
    run.answered(run.packet(first, 2, germinate.event_id))

    second = first.copy(2, 1)  # behind the first epoch, before its command was carried out
    second.timeline = 1
    run.trainers.append(second)
    run.publish(second, pb.RunResumed(accepted_sequence=second.sequence, from_step=second.step, reason="test"))
    late = run.packet(first, 3)  # of the process that was thought dead
    run.applied(first, run.commanded(late, leyline.SEED_OPERATION_CULL, "s1"), moves=False)
    run.alerted(late)

    run.applied(second, germinate)
    kept = run.packet(second, 2, germinate.event_id)
    run.alerted(kept)
    run.answered(kept)
    place = len(second.past) - 1
    undone = run.commanded(run.packet(second, 3), leyline.SEED_OPERATION_GERMINATE, "s2")
    run.applied(second, undone)
    run.roll_back(1, len(second.past) - 1 - place)
    run.answered(run.packet(second, 3, undone.event_id, ended_as="rolled_back"))
    run.finish(1)
    return run.events
