"""A person's script run again: several runs of one script, one that failed and was mended, and its static run."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import esper
from esper.cli.history import history_of
from esper.cli.replay import reasons_of, recorded_run
from esper.cli.resume import changed_files
from esper.cli.run_view import RunView
from esper.cli.static_run import config_of
from esper.errors import InvalidInput
from esper.leyline.envelope import Event, body_name
from esper.leyline.verifier import CommandVerifier
from esper.record import Recorded
from esper.testing import KEYS, REAL_CLOCK, MemoryLog, signed
from esper.tolaria.appointed import TwoAtOnce
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Outside
from esper.tolaria.replay import Replayed, replay_run
from esper.tolaria.resume import resume_run
from esper.tolaria.script import seed_of, with_seed
from esper.tolaria.static_script import stretch
from esper.tolaria.train import mended, train, trained_in, with_arguments
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
            scale = 1.0
            if epoch >= int(sys.argv[2]):
                assert "halts" in sys.argv, "too far"
                scale = float("nan")
            order = torch.randperm(60).split(10)
            for rows in run.batches(order):
                run.step(lambda: scale * functional.cross_entropy(model(X[rows]), Y[rows]))
                schedule.step()
        run.report(probe)
"""


CHANGING = """
import sys
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import DataLoader
import esper

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(int(Path("data.txt").read_text())))
if sys.argv[1] == "seeded":
    torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
probe = lambda model: model(torch.ones(2, 4)).pow(2).mean(1)
run = esper.grow(model, torch.optim.SGD(model.parameters(), lr=0.1), probe=probe, epochs=2, log=None, policy="none")
for _ in run.epochs():
    for batch in run.batches(DataLoader(X, 16)):
        run.step(lambda: model(batch).pow(2).mean())
run.report(probe)
"""

TOGETHER = """
import sys
import torch
from torch import nn
import esper

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
torch.manual_seed(0)


def one():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = lambda model: (model(X) ** 2).mean(1)
    return model, esper.grow(model, optimizer, probe=probe, epochs=2, name="one", log=None, policy="none")


def steps(model, run):
    for batch in run.batches([X, X]):
        yield run.step(lambda: model(batch).pow(2).mean())


model, first = one()
if sys.argv[1] == "beside":
    other, second = one()
    with first, second:
        for epoch, _ in zip(first.epochs(), second.epochs()):
            for _ in zip(steps(model, first), steps(other, second)):
                assert epoch < int(sys.argv[2]), "too far"
if sys.argv[1] == "within":
    with first:
        for epoch in first.epochs():
            for _ in steps(model, first):
                pass
            if epoch == 0:
                other, second = one()
                epochs = second.epochs()
            next(epochs, None)
            for _ in steps(other, second):
                assert epoch < int(sys.argv[2]), "too far"
    second.report(lambda model: (model(X) ** 2).mean(1))
if sys.argv[1] == "left":
    for _ in first.epochs():
        next(steps(model, first))
        break
    other, second = one()
    with second:
        for _ in second.epochs():
            for _ in steps(other, second):
                pass
"""
"""Two runs: both at once; the second one begun within the first; the first one left before its end."""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs the script once and gives the ids of the runs that it began, in their order."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.py").write_text(SCRIPT)
    (tmp_path / "together.py").write_text(TOGETHER)
    (tmp_path / "changing.py").write_text(CHANGING)
    (tmp_path / "data.txt").write_text("1")
    begun: list[str] = []
    grow = esper.grow
    monkeypatch.setitem(vars(esper), "grow", lambda *a, **k: [run := grow(*a, **k), begun.append(run.run_id)][0])

    def run(*arguments: int | str, script: str = "two.py") -> list[str]:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        with torch.random.fork_rng(devices=[]), suppress(AssertionError):
            runpy.run_path(script, run_name="__main__")
        return list(begun)

    return run


def recorded(run_id: str) -> Recorded:
    with history_of(Path("esper-data")) as history:
        return recorded_run(history, run_id)


def replayed(found: Recorded) -> Replayed:
    objects = object_store(Path("esper-data"))
    before = partial(trained_in, objects=objects)
    return replay_run(found, trained_in(found, objects), objects=objects, clock=REAL_CLOCK, before=before)


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


@pytest.mark.parametrize("how", ["beside", "within"])
def test_two_runs_that_train_at_once_are_not_trained_again(ran, how) -> None:
    """Neither is replayed, and one that failed is not gone on with: which step came before the other's nobody knows."""
    runs = ran(how, 9, script="together.py")

    for found in map(recorded, runs):
        assert found.facts[-1].run_finished.status == "completed"
        with pytest.raises(TwoAtOnce, match="this script trains two runs"):
            replayed(found)
    _, failed = ran(how, 1, script="together.py")[-2:]
    with pytest.raises(TwoAtOnce):
        resumed(recorded(failed), with_my_file=False)


@pytest.mark.parametrize(
    ("how", "data", "why"),
    [
        ("seeded", "2", ["its first batch is another one than on record", "it does not call torch.use_deterministic_"]),
        ("plain", "1", ["nothing seeds its first weights: call torch.manual_seed before the model is made"]),
    ],
)
def test_a_script_that_comes_to_something_else_is_told_why_that_may_be(ran, how, data, why) -> None:
    (run_id,) = ran(how, script="changing.py")
    found, objects = recorded(run_id), object_store(Path("esper-data"))
    Path("data.txt").write_text(data)
    task = trained_in(found, objects)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)  # another process begins elsewhere
        diverged = replay_run(found, task, objects=objects, clock=REAL_CLOCK).diverged

    assert len(found.root.data_fingerprint) == 64
    told = list(reasons_of(task, diverged))
    assert [each.startswith(begin) for each, begin in zip(told, why, strict=True)] == [True] * len(why)


def test_a_script_whose_data_are_the_same_is_not_told_of_them(ran) -> None:
    (run_id,) = ran("seeded", script="changing.py")
    task = trained_in(recorded(run_id), object_store(Path("esper-data")))
    found = replay_run(recorded(run_id), task, objects=object_store(Path("esper-data")), clock=REAL_CLOCK)

    assert found.diverged is None
    assert [each for each in task.reasons if "batch" in each] == []


def test_a_run_after_one_that_was_left_before_its_end_is_trained_again(ran) -> None:
    _, second = ran("left", script="together.py")

    assert replayed(recorded(second)).diverged is None


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


@pytest.mark.parametrize(
    ("how", "reason"),
    [("raises", "AssertionError: too far"), ("halts", "non_finite_loss at step 12, for the 3. time")],
)
def test_a_run_that_failed_goes_on_once_its_script_is_mended(ran, how, reason) -> None:
    """Mended files come to other figures from there on, and what was before is trained again with what it was then."""
    (run_id,) = ran(1, 2, how)
    failed = recorded(run_id)
    assert failed.facts[-1].run_finished.reason.startswith(reason)

    again = resumed(failed, with_my_file=False)
    assert (again.facts[-1].run_finished.status, again.facts[-1].epoch) == ("failed", 2)
    assert [fact.global_step for fact in again.facts if fact.HasField("rolled_back")] == [12, 12, 12] * (how == "halts")

    Path("two.py").write_text(SCRIPT.replace("int(sys.argv[2])", "9").replace("scale = 1.0", "scale = 0.7"))
    assert changed_files(failed) == ["two.py"]
    again = resumed(again, with_my_file=True)
    assert (again.facts[-1].run_finished.status, again.facts[-1].epoch) == ("completed", 4)
    assert again.script.sources != again.root.script.sources
    assert changed_files(again) == []
    found = replayed(again)
    claims = sum(fact.HasField("run_resumed") for fact in again.facts)
    assert (found.diverged, found.facts, found.step) == (None, len(again.facts) - claims, 24)


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


def test_a_script_is_run_anew_with_another_seed_as_its_argument(ran) -> None:
    """The new run has a record of its own, with the argument, and replays."""
    (run_id,) = ran(1, 9, "--seed", 3)
    found, objects = recorded(run_id), object_store(Path("esper-data"))
    arguments = with_seed(found.root.script.arguments, 5)
    task = with_arguments(trained_in(found, objects), arguments)
    log = MemoryLog(objects=objects)
    config = replace(RunConfig.from_json(found.root.config_json), seed=5)
    train(config, task, LiveWorld(Outside(log, REAL_CLOCK, objects)), run_id="anew", fresh_steps=6)
    anew = record_of("anew", log.events)

    assert list(anew.root.script.arguments) == ["1", "9", "--seed", "5"]
    assert anew.root.weights_digest == found.root.weights_digest  # this script does not read it
    assert anew.facts[-1].run_finished.status == "completed"
    assert replayed(anew).diverged is None


@pytest.mark.parametrize(
    ("arguments", "seed", "found"),
    [
        (["a"], None, ["a", "--seed", "7"]),
        (["--seed", "3", "a"], 3, ["--seed", "7", "a"]),
        (["--lr=1", "--seed=0"], 0, ["--lr=1", "--seed=7"]),
        (["--seeded", "--seed"], None, ["--seeded", "--seed", "--seed", "7"]),
    ],
)
def test_a_seed_has_its_place_among_the_arguments(arguments, seed, found) -> None:
    assert (seed_of(arguments), with_seed(arguments, 7)) == (seed, found)


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
