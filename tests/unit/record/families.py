"""Forks for tests: runs that go on from a fact of another's path, and go back as far as they remember."""

from __future__ import annotations

import random
from dataclasses import dataclass

from contracts.leyline.v1 import event_pb2 as pb
from esper.leyline.envelope import Event
from esper.record import RunState, replay
from esper.record.run_status import Mark, marks
from projections.testing import Trainers


@dataclass(frozen=True, slots=True)
class Member:
    """A run and the facts of its ancestors up to where it left them, in the order of the log."""

    run: Trainers
    shared: tuple[Event, ...] = ()

    @property
    def history(self) -> list[Event]:
        """All facts, as a fold takes them."""
        return [*self.shared, *self.run.events]

    def fork(self, run_id: str, back: int) -> Member:
        """A run that goes on from the fact that lies `back` behind on the path, and remembers all before it."""
        state = replay(self.history)
        path = list(marks(state))
        event_id = state.ledger.id_of(path[back % len(path)].sequence)
        place = next(place for place, event in enumerate(self.history) if event.event_id == event_id)
        shared = tuple(self.history[: place + 1])
        return Member(_begun(run_id, shared[-1], replay(shared)), shared)


def _begun(run_id: str, shared: Event, before: RunState) -> Trainers:
    """The trainers of a fork that begins after the fact `shared`, when the state was `before`."""
    child = Trainers(run_id)
    trainer = child.trainers[0]
    trainer.sequence, trainer.step, trainer.epoch = before.sequence, before.model.step, before.model.epoch
    trainer.incarnation, trainer.timeline = before.incarnation, before.timeline
    trainer.lives = {seed_id: seed.life for seed_id, seed in before.seeds.items()}
    trainer.past = [_remembered(mark) for mark in reversed(list(marks(before)))]
    trainer.stages = dict(trainer.past[-1][3])
    start = child.events.pop().run_started
    start.parent_run_id, start.parent_sequence = shared.run_id, shared.sequence
    start.inherited.extend(
        pb.SeedObservation(
            seed_id=seed.seed_id,
            stage=seed.stage,
            blueprint_id=seed.blueprint_id,
            alpha=seed.alpha,
            life=seed.life,
            parameters=seed.parameters,
            stage_age_epochs=seed.stage_age_epochs,
        )
        for seed in before.seeds.values()
    )
    child.publish(trainer, start).causation_id = shared.event_id
    return child


def _remembered(mark: Mark) -> tuple[int, int, int, dict]:
    """A fact as a trainer remembers it."""
    stages = {seed_id: seed.stage for seed_id, seed in mark.model.seeds.items()}
    return mark.sequence, mark.model.step, mark.model.epoch, stages


def live(run: Trainers, chance: random.Random, acts: int) -> None:
    """A run does what runs do; rollbacks and resumes go back anywhere in its past, its ancestors' facts included."""

    def who() -> int:
        return chance.randrange(3)

    ways = [
        *[lambda: run.move(who(), chance.randrange(3), chance.randrange(5))] * 4,
        *[lambda: run.complete_epoch(who())] * 2,
        lambda: run.train(who()),
        *[lambda: run.note(who(), chance.randrange(9), chance.randrange(6))] * 2,
        lambda: run.repeat(chance.randrange(50)),
        *[lambda: run.roll_back(who(), chance.randrange(20))] * 2,
    ]
    rare = [
        (0.2, lambda: run.resume(who(), chance.randrange(20))),
        (0.1, lambda: run.roll_back(who(), chance.randrange(40), astray=True)),
    ]
    for way in chance.choices(ways, k=acts):
        way()
    for share, way in rare:
        if chance.random() < share:
            way()
    for way in chance.choices(ways, k=chance.randrange(6)):
        way()


def family(seed: int) -> list[Member]:
    """A run, a fork of it and a fork of that."""
    chance = random.Random(seed)
    members = [Member(Trainers(f"run-{seed}"))]
    live(members[0].run, chance, chance.randrange(15))
    for name in ("child", "grandchild"):
        members.append(members[-1].fork(f"run-{seed}-{name}", chance.randrange(6)))
        live(members[-1].run, chance, chance.randrange(12))
    return members
