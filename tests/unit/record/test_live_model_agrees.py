"""Log, Python fold, SQL fold and the live model agree on every seed's stage at every epoch, whatever happens to a run.

Real runs of a tiny network: a random policy grows and culls, a person sends legal and illegal commands at random steps,
rolls back, and trains through them. What went onto the log is then made worse: facts arrive twice, and a process that
was thought dead writes on after another one has claimed the run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from contracts.leyline.v1 import leyline_pb2 as pb
from contracts.leyline.v1.event_pb2 import RunResumed, SeedTransitioned
from contracts.topics import BY_BODY, RUNS
from esper.kasmina.lifecycle import name as stage_name
from esper.kasmina.settings import SeedSettings
from esper.leyline import ids
from esper.leyline.envelope import Event, body_name, new_event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import Signed
from esper.record import RunState, replay, stages_by_epoch
from esper.testing import REAL_CLOCK, MemoryLog, command_event, seed_command, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Outside
from esper.tolaria.session import RunResult
from esper.tolaria.tasks import Samples, Site, Task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from projections import open_history
from projections.archive_writer import Archive
from projections.testing import LogOfRecords
from tests.unit.record.test_folds_agree import STAGES_AT_EPOCHS

RUN = "live"
EPOCHS = 12
STEPS = 3 * EPOCHS
FAST = SeedSettings(
    training_epochs=1,
    blend_epochs=1,
    embargo_epochs=1,
    probation_patience=2,
    harm_z=50.0,  # so that seeds of a network this small get through the gates now and then
    drift_z=50.0,
    benefit_z=0.0,
    regression_z=50.0,
)

OPERATIONS = (pb.SEED_OPERATION_GERMINATE, pb.SEED_OPERATION_CULL, pb.SEED_OPERATION_FOSSILIZE)
SEED_COMMANDS = st.builds(
    lambda operation, seed_id, blueprint: lambda: seed_command(RUN, operation, seed_id, blueprint),
    st.sampled_from((*OPERATIONS, pb.SEED_OPERATION_STABILIZE)),
    st.sampled_from(("s1", "s2", "s9")),
    st.sampled_from(("BP009", "BP003", "BP999")),
)
ROLLBACKS = st.just(lambda: command_event(RUN, pb.AdaptationCommand(command_type=pb.COMMAND_TYPE_ROLLBACK)))
PLANS = st.lists(st.tuples(st.integers(0, STEPS), SEED_COMMANDS | SEED_COMMANDS | ROLLBACKS), max_size=8)


class Script(MemoryLog):
    """A log that also delivers commands at the steps that a test names."""

    def __init__(self, objects: ObjectStore, plan: Sequence[tuple[int, Event]]) -> None:
        super().__init__(objects=objects)
        self._plan = sorted(plan, key=lambda entry: entry[0])
        self._asked = 0

    def take_commands(self) -> list[Signed]:
        """What is due at this step."""
        self._asked += 1
        due = [signed(event) for at, event in self._plan if at < self._asked]
        self._plan = [entry for entry in self._plan if entry[0] >= self._asked]
        return super().take_commands() + due


def tiny() -> Task:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(120, 4, generator=generator)
    targets = (inputs[:, 0] * inputs[:, 1] > 0).long()
    parts = [Samples(inputs[a:b], targets[a:b]) for a, b in ((0, 48), (48, 84), (84, 120))]
    return Task(
        name="tiny",
        make_host=lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2)),
        sites=(Site("1", "vector"), Site("3", "vector")),
        train=parts[0],
        probe=parts[1],
        test=parts[2],
        epochs=EPOCHS,
        batch_size=16,
    )


def live_run(seed: int, plan: Sequence[tuple[int, Event]]) -> tuple[list[Event], RunResult]:
    """A real run: its facts as they lie on the log, and what became of its seeds in the model itself."""
    with tempfile.TemporaryDirectory() as folder:
        objects = ObjectStore(Path(folder))
        log = Script(objects, plan)
        config = RunConfig(
            task="tiny", seed=seed, policy="random", decision_timeout_s=None, telemetry_every_steps=1000, seeds=FAST
        )
        result = train(config, tiny(), LiveWorld(Outside(log, REAL_CLOCK, objects)), run_id=RUN)
    return [event for event in log.events if BY_BODY[body_name(event)] is RUNS], result


def claimed_at(facts: Sequence[Event], place: int) -> list[Event]:
    """The same run, as a second process that claimed it after `facts[place]` and did all the rest."""
    claim = new_event(
        RunResumed(accepted_sequence=facts[place].sequence, from_step=facts[place].global_step, reason="test"),
        event_id=ids.derived_id(facts[place].event_id, "claim"),
        run_id=RUN,
        producer="trainer",
        recorded_at_ns=1,
        sequence=facts[place].sequence + 1,
        incarnation=2,
        timeline=facts[place].timeline,
        global_step=facts[place].global_step,
        epoch=facts[place].epoch,
    )
    later = []
    moved = {fact.sequence: fact.sequence + 1 for fact in facts[place + 1 :]}
    for fact in facts[place + 1 :]:
        own = Event.FromString(fact.SerializeToString())
        own.incarnation, own.sequence = 2, moved[fact.sequence]
        if own.HasField("rolled_back"):
            own.rolled_back.to_sequence = moved.get(own.rolled_back.to_sequence, own.rolled_back.to_sequence)
        later.append(own)
    return [*facts[: place + 1], claim, *later]


def zombie(facts: Sequence[Event], place: int) -> list[Event]:
    """What the first process still writes after the claim: nonsense about a seed, and its own epochs."""
    after = facts[place]
    body = SeedTransitioned(
        seed_id="s1",
        from_stage=pb.SEED_LIFECYCLE_STAGE_DORMANT,
        to_stage=pb.SEED_LIFECYCLE_STAGE_TERMINATED,
        reason="a process that was thought dead",
    )
    wild = new_event(
        body,
        event_id=ids.derived_id(after.event_id, "zombie"),
        run_id=RUN,
        producer="trainer",
        recorded_at_ns=1,
        sequence=after.sequence + 1,
        incarnation=1,
        timeline=after.timeline,
        global_step=after.global_step,
        epoch=after.epoch,
    )
    return [wild, *facts[place + 1 : place + 6]]


def mixed(facts: Sequence[Event], extra: Sequence[Event], claim_at: int, repeats: Sequence[int]) -> list[Event]:
    """`facts` with the zombie's writes strewn in after the claim, and some facts delivered again later."""
    log = list(facts)
    for number, event in enumerate(extra):
        log.insert(min(len(log), claim_at + 2 + 3 * number), event)
    for repeat in repeats:
        place = repeat % len(log)
        log.insert(place + 1 + repeat % max(1, len(log) - place), log[place])
    return log


def sql_stages(events: Sequence[Event]) -> tuple[set[tuple[str, int]], set[tuple[int, str, int]], list[object]]:
    """The SQL fold's stages now, its stages at every epoch, and what it finds wrong."""
    with tempfile.TemporaryDirectory() as folder, Archive(Path(folder)) as archive:
        archive.append(LogOfRecords().place(events))
        with open_history(Path(folder)) as history:
            now = history.execute("SELECT seed_id, stage_number(stage) FROM seeds").fetchall()
            then = [row[1:] for row in history.execute(STAGES_AT_EPOCHS).fetchall()]
            problems = history.execute("SELECT problem, sequence FROM stops").fetchall()
    return set(now), set(then), problems


def live_stages(facts: Sequence[Event], state: RunState) -> dict[int, dict[str, int]]:
    """What the model itself said of its seeds when each surviving epoch ended."""
    surviving = stages_by_epoch(state)
    return {
        fact.sequence: {seed.seed_id: seed.stage for seed in fact.epoch_completed.seeds}
        for fact in facts
        if fact.HasField("epoch_completed") and fact.sequence in surviving
    }


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**16),
    plan=PLANS,
    claim=st.integers(0, 10_000),
    repeats=st.lists(st.integers(0, 10_000), max_size=6),
)
def test_all_four_agree(seed, plan, claim, repeats):
    """The stages of a real run, as the model had them, survive duplicates, a zombie and rollbacks in both folds."""
    facts, result = live_run(seed, [(step, make()) for step, make in plan])
    claim_at = 1 + claim % (len(facts) - 2)
    resumed = claimed_at(facts, claim_at)
    log = mixed(resumed, zombie(facts, claim_at), claim_at, repeats)

    state = replay(log)
    now, then, problems = sql_stages(log)

    assert state.problem is None
    assert problems == []
    python = stages_by_epoch(state)
    live = live_stages(resumed, state)
    assert python == live
    assert then == {
        (sequence, seed_id, stage) for sequence, stages in live.items() for seed_id, stage in stages.items()
    }
    assert now == {(seed_id, seed.stage) for seed_id, seed in state.seeds.items()}
    assert {seed_id: stage_name(state.seeds[seed_id].stage) for seed_id in result.fates} == {
        seed_id: fate["stage"] for seed_id, fate in result.fates.items()
    }
