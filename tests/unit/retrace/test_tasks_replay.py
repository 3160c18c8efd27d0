"""The tasks themselves, grown, with culls and a rollback among them, replay from their start and their checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esper.kasmina import lifecycle
from esper.tolaria.tasks import load_task

TASKS = ("digits", "chars", "spirals")


def live(lived, task, epochs: int, seed: int) -> None:
    steps = task.steps(task.batch_size)
    script = {
        2: lived.germinate("s1", "BP009"),
        steps + 3: lived.germinate("s2", "BP009"),
        steps + 5: lived.go_back("fast"),
        2 * steps + 1: lived.cull("s1"),
    }
    lived.train(script, task=task, seed=seed, epochs=epochs, policy="random")
    culled = [body for body in lived.log.bodies("seed_transitioned") if body.to_stage == lifecycle.CULLED]
    assert culled
    assert lived.count("rolled_back") == 1


def check(lived, task, **where) -> None:
    replayed = lived.replay(task=task, **where)
    assert replayed.diverged is None, str(replayed.diverged)
    assert replayed.digests_checked > 0


@pytest.mark.parametrize("name", TASKS)
def test_a_task_replays(lived, name):
    task = replace(load_task(name), steps_per_epoch=12)
    live(lived, task, 3, 1)

    check(lived, task)
    check(lived, task, from_step=lived.recorded().checkpoints()[-2].checkpoint_saved.step)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", TASKS)
def test_ten_runs_of_a_task_replay_from_everywhere(lived, name, seed):
    task = load_task(name)
    live(lived, task, 10, seed)
    check(lived, task)
    for fact in lived.recorded().checkpoints():
        check(lived, task, from_step=fact.checkpoint_saved.step)
