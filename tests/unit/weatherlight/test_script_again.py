"""A person's script run again: several runs of one script, one that failed and was mended, and its static run."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import esper
from esper.cli.history import history_of
from esper.cli.replay import recorded_run
from esper.cli.resume import changed_files
from esper.cli.run_view import RunView
from esper.cli.static_run import config_of
from esper.errors import InvalidInput
from esper.leyline.envelope import Event, body_name
from esper.leyline.verifier import CommandVerifier
from esper.record import Recorded
from esper.testing import KEYS, REAL_CLOCK, MemoryLog, signed
from esper.tolaria.outside import Outside
from esper.tolaria.replay import Replayed, replay_run
from esper.tolaria.resume import resume_run
from esper.tolaria.static_script import stretch
from esper.tolaria.train import mended, train, trained_in
from esper.tolaria.world import LiveWorld
from projections.run_queries import EventReader
from streams.objects import object_store

SCRIPT = """
import sys
import torch
from torch import nn
from torch.nn import functional
import esper

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] * X[:, 1] > 0).long()
torch.manual_seed(0)
for number in range(int(sys.argv[1])):
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=4 * 6)
    probe = lambda model: functional.cross_entropy(model(X[64:]), Y[64:], reduction="none")
    config = {"seeds": {"lifecycle": "direct"}, "growth_budget_factor": 9.0}
    with esper.grow(
        model, optimizer, probe=probe, epochs=4, scheduler=schedule, name="two", log=None, policy="random", seed=3,
        config=config,
    ) as run:
        for epoch in run.epochs():
            assert epoch < int(sys.argv[2]), "too far"
            order = torch.randperm(60).split(10)
            for rows in run.batches(order):
                run.step(lambda: functional.cross_entropy(model(X[rows]), Y[rows]))
                schedule.step()
        run.report(probe)
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs the script once and gives the ids of the runs that it began, in their order."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.py").write_text(SCRIPT)
    begun: list[str] = []
    grow = esper.grow
    monkeypatch.setitem(vars(esper), "grow", lambda *a, **k: [run := grow(*a, **k), begun.append(run.run_id)][0])

    def run(*arguments: int) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["two.py", *map(str, arguments)])
        with torch.random.fork_rng(devices=[]), suppress(AssertionError):
            runpy.run_path("two.py", run_name="__main__")
        return list(begun)

    return run


def recorded(run_id: str) -> Recorded:
    with history_of(Path("esper-data")) as history:
        return recorded_run(history, run_id)


def replayed(found: Recorded) -> Replayed:
    objects = object_store(Path("esper-data"))
    return replay_run(found, trained_in(found, objects), objects=objects, clock=REAL_CLOCK)


def test_each_run_of_a_script_that_grew_two_is_trained_again(ran, monkeypatch) -> None:
    first, second = ran(2, 9)

    assert list(recorded(second).root.script.before) == [first]
    assert recorded(first).root.weights_digest != recorded(second).root.weights_digest
    for run_id in (first, second):
        found = replayed(recorded(run_id))
        assert (found.diverged, found.digests_checked > 4) == (None, True)


def test_a_run_whose_earlier_one_is_not_in_this_history_says_so(ran) -> None:
    _, second = ran(2, 9)
    with history_of(Path("esper-data")) as history:
        found = recorded_run(history, second)
    found.root.script.before[0] = "k3f9k3f9"
    lacking = Recorded.whole(second, lambda each: found if each == second else recorded(each))
    with pytest.raises(InvalidInput, match="the script grew 1 other runs before, which it trains first: run k3f9k3f9"):
        replayed(lacking)


def record_of(run_id: str, events: Sequence[Event], before: Recorded | None = None) -> Recorded:
    """The record that these events make, after what counts of `before`."""
    asked = [(each, signed(each)) for each in events if body_name(each) in ("decision_made", "adaptation_command")]
    facts = [each for each in events if each.sequence]
    if before is not None:
        facts = [*before.facts[: before.last_accepted()], *facts]
        known = [*before.decisions.values(), *before.commands.values()]
        asked = [*((Event.FromString(each.payload), each) for each in known), *asked]
    return Recorded.of(run_id, facts, asked)


def resumed(found: Recorded, *, with_my_file: bool) -> Recorded:
    """The record of a run that went on."""
    objects = object_store(Path("esper-data"))
    log, verifier = MemoryLog(objects=objects), CommandVerifier(KEYS)
    script, task = None, trained_in(found, objects)
    if with_my_file:
        task, script = mended(found, task, objects)
    with suppress(AssertionError):
        resume_run(found, task, Outside(log, REAL_CLOCK, objects, verifier), log, verifier, script=script)
    return record_of(found.run_id, log.events, found)


def test_a_run_that_failed_goes_on_once_its_script_is_mended(ran) -> None:
    (run_id,) = ran(1, 2)
    failed = recorded(run_id)
    assert failed.facts[-1].run_finished.reason == "AssertionError: too far"

    again = resumed(failed, with_my_file=False)
    assert (again.facts[-1].run_finished.status, again.facts[-1].epoch) == ("failed", 2)

    Path("two.py").write_text(SCRIPT.replace("epoch < int(sys.argv[2])", "epoch < 9"))
    assert changed_files(failed) == ["two.py"]
    again = resumed(failed, with_my_file=True)
    assert (again.facts[-1].run_finished.status, again.facts[-1].epoch) == ("completed", 4)
    assert again.script.sources != again.root.script.sources
    assert changed_files(again) == []
    assert replayed(again).diverged is None


def test_a_script_is_run_again_with_what_grew_from_its_first_step_for_as_many_flops(ran) -> None:
    (run_id,) = ran(1, 9)
    grown, objects = recorded(run_id), object_store(Path("esper-data"))
    with history_of(Path("esper-data")) as history:
        config = config_of(Path("esper-data"), RunView.of(run_id, EventReader(history, run_id).new()))
    log = MemoryLog(objects=objects)
    world = LiveWorld(Outside(log, REAL_CLOCK, objects))
    result = train(config, trained_in(grown, objects), world, run_id=f"{run_id}-static", fresh_steps=6)
    static, end = record_of(result.run_id, log.events), grown.facts[-1].run_finished

    assert [each.blueprint_id for each in static.root.inherited if each.blueprint_id] == [
        piece.blueprint_id for piece in config.structure
    ]
    assert (result.status, result.params_final, result.seeds["germinated"]) == (
        "completed",
        end.params_final,
        len(config.structure),
    )
    per_epoch = result.flops["training"] / result.epochs
    assert result.epochs > 4
    assert abs(result.flops["training"] - end.flops) <= per_epoch / 2
    assert replayed(static).diverged is None
    assert static.root.script == grown.root.script


def test_a_schedule_ends_with_the_run_however_many_epochs_that_has() -> None:
    for epochs in (2, 4, 7):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=40)
        stretch(schedule, made_for=4, epochs=epochs)
        rates = []
        for _ in range(10 * epochs):
            optimizer.step()
            schedule.step()
            rates.append(optimizer.param_groups[0]["lr"])
        assert rates[-1] == pytest.approx(0.0, abs=1e-9)
        assert rates[5 * epochs - 1] == pytest.approx(0.05, abs=0.003)
        assert schedule.state_dict()["stretched_calls"] == 10 * epochs if epochs != 4 else True
