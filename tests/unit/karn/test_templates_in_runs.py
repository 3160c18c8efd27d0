"""Every template but the stressors, in a real run of a real task: germinated by a command, grafted to PROBATIONARY.

`spirals`, `digits` and `chars` with their own hosts and data, of which a few samples are enough: what is tested is that
a template lives in a network that trains, not that it pays. The whole way is the real one: signed command, gates on the
probe set, the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.karn.approval import Approval
from esper.karn.blueprint import SiteShape
from esper.karn.catalogue import measure
from esper.karn.dossier import Dossier
from esper.karn.table import CATALOGUE
from esper.kasmina.lifecycle import name
from esper.kasmina.settings import SeedSettings
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.testing import KEYS, FakeClock, MemoryLog, seed_command, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Outside
from esper.tolaria.tasks import Samples, Task, load_task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld

HARMLESS = [blueprint for blueprint in CATALOGUE.values() if not blueprint.quarantine_only]
APPROVED = Dossier(
    {blueprint.blueprint_id: Approval("a tester", "tests") for blueprint in HARMLESS if blueprint.approval_required}
)
TURNS = (0, 1, 0, 1, 0, 2)
"""Which of its kinds of site each template is tried on; the third is tokens, whose run takes as long as four others."""
CASES = [
    pytest.param(
        b.blueprint_id,
        kind,
        id=f"{b.blueprint_id}-{kind}",
        marks=[pytest.mark.soak] if place != TURNS[n % 6] % len(b.kinds) else [],
    )
    for n, b in enumerate(HARMLESS)
    for place, kind in enumerate(b.kinds)
]
"""Each template on one kind of site that it is for, and under `-m soak` on the others: what it computes there, and that
it grafts, is tested of every kind (`unit/karn/test_blueprint_modules.py`, `unit/kasmina/test_catalogue_seeds.py`)."""
STAGES = ["GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"]

TASKS = {"vector": ("spirals", "s1", 20), "image": ("digits", "s1", 20), "token": ("chars", "s2", 8)}
"""By kind of site: a task that has one, its seed id, and the batch size."""
STEPS = 6
QUICK = {"training_epochs": 1, "blend_epochs": 1}
RESHAPING = {"harm_share": 0.25}
"""G1 and G3 let so much harm pass where a template is no residual: a norm or an activation, tried at once at full
strength, takes from the host what it has learnt to rely on, and its epoch of blending here is six steps long."""
EPOCHS = 5


@cache
def small(task_name: str, batch_size: int) -> Task:
    """The task with its own host and a few of its own samples."""
    task = load_task(task_name)
    some = {part: head(getattr(task, part), STEPS * batch_size) for part in ("train", "probe", "test")}
    return replace(task, epochs=EPOCHS, batch_size=batch_size, steps_per_epoch=STEPS, **some)


def head(samples: Samples, count: int) -> Samples:
    return Samples(samples.inputs[:count], samples.targets[:count])


def germinate_at(log: MemoryLog, clock: FakeClock, step: int, seed_id: str, blueprint_id: str) -> Callable[[], bool]:
    """A `should_stop` that never stops and sends a signed germinate command before that step."""
    steps = iter(range(10**6))

    def watch() -> bool:
        if next(steps) == step:
            event = seed_command("run", leyline.SEED_OPERATION_GERMINATE, seed_id, blueprint_id, clock=clock.clock)
            log.send(signed(event))
        return False

    return watch


def residual(blueprint_id: str, kind: str) -> bool:
    shapes = {"vector": (4,), "image": (4, 8, 8), "token": (64, 32)}
    return measure(blueprint_id, SiteShape(kind, shapes[kind])).residual


@pytest.mark.parametrize(("blueprint_id", "kind"), CASES)
def test_it_grows_into_a_network_that_trains(blueprint_id: str, kind: str, tmp_path: Path) -> None:
    task_name, seed_id, batch_size = TASKS[kind]
    clock, objects = FakeClock(), ObjectStore(tmp_path)
    log = MemoryLog(clock.clock, objects=objects)
    germinate = germinate_at(log, clock, STEPS, seed_id, blueprint_id)
    outside = Outside(log, clock.clock, objects, CommandVerifier(KEYS), None, germinate)
    result = train(
        RunConfig(
            task=task_name,
            policy="none",
            pool=(blueprint_id,),
            dossier=APPROVED,
            checkpoint_every_epochs=EPOCHS,
            seeds=SeedSettings(**QUICK, **({} if residual(blueprint_id, kind) else RESHAPING)),
        ),
        small(task_name, batch_size),
        LiveWorld(outside),
        run_id="run",
    )

    failed = [body.reason for body in log.bodies("gate_evaluated") if not body.passed]
    moves = [name(body.to_stage) for body in log.bodies("seed_transitioned")]
    (attached,) = log.bodies("kernel_attached")
    assert failed == []
    assert moves == STAGES
    assert result.fates == {seed_id: {"stage": "PROBATIONARY", "blueprint": blueprint_id, "alpha": 1.0}}
    assert (result.status, attached.blueprint_id) == ("completed", blueprint_id)
    learns = {body.group for body in log.bodies("optimizer_changed") if body.change == "group_added"}
    assert learns == ({seed_id} if attached.module_parameters else set())
    assert not log.bodies("command_rejected")
    assert not log.bodies("rolled_back")
    assert not [body for body in log.bodies("telemetry_packet") if body.source_subsystem == "kasmina"]
