"""`esper state`: a run at a step or an epoch, as tables and JSON, and its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from esper.cli.app import dispatch
from esper.cli.history import history_of
from esper.cli.state import fold, folded, mark_at, place_of, rates_at, to_json
from esper.leyline.envelope import new_event
from esper.record import ModelState, Rate, packets
from esper.tolaria.learning_rate import LearningRates
from projections.archive_writer import Archive
from projections.run_queries import decision_on
from projections.testing import RECORDED_AT_NS, LogOfRecords, Trainers

RUN = "k3f9x2qa"


@pytest.fixture
def played() -> Trainers:
    """s1 germinates, an epoch ends, a checkpoint; what follows is rolled back, and a second one goes on from there."""
    run = Trainers(RUN)
    trainer = run.trainers[0]
    run.move(0, 0, 0)
    run.complete_epoch(0)
    run.publish(trainer, pb.CheckpointSaved(ref="sha256:a", step=10, upto_sequence=trainer.sequence))
    run.complete_epoch(0)
    run.publish(trainer, pb.CheckpointSaved(ref="sha256:b", step=20, upto_sequence=trainer.sequence))
    run.publish(trainer, pb.BreakerChanged(breaker="isolation", to_state=2))
    run.roll_back(0, 3)
    run.move(0, 0, 0)
    run.complete_epoch(0)
    return run


@pytest.fixture
def ask(tmp_path, played):
    """Runs `esper state` on the archived run; its exit code."""
    decisions = [
        new_event(
            pb.DecisionMade(
                packet_id=event.event_id, actions=[f"cull s{event.sequence}"], policy="random", policy_version="7"
            ),
            event_id=bytes([event.sequence]) * 16,
            run_id=RUN,
            producer="tamiyo",
            recorded_at_ns=RECORDED_AT_NS,
            epoch=event.epoch,
        )
        for event in played.events
        if event.HasField("epoch_completed")
    ]
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place([*played.events, *decisions]))
    return lambda *arguments: dispatch(["state", *arguments, "--data-dir", str(tmp_path)])


def told(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_step_means_the_surviving_timeline(ask, capsys):
    """Step 15 lay in the stretch that was rolled back; what no rollback takes back is as it was then."""
    assert ask("k3f", "--at", "15", "--json") == 0
    then = told(capsys)
    assert ask("last", "--json") == 0
    now = told(capsys)

    assert (then["step"], then["epoch"], then["timeline"], then["sequence"]) == (15, 1, 2, 9)
    assert then["seeds"][0]["stage"] == "TRAINING"
    assert (then["breakers"], then["last_checkpoint"]["step"]) == ({"isolation": "OPEN"}, 10)
    assert then["last_decision"]["chosen"] == "cull s3"
    assert (then["policy"], then["policy_version"]) == ("random", "7")
    assert (then["now"]["step"], then["now"]["sequence"]) == (20, 10) == (now["step"], now["sequence"])
    assert now["last_decision"]["chosen"] == "cull s10"
    assert [window["seed_id"] for window in now["open_windows"]] == ["s2"]
    assert now["params"] == 1_002


def test_an_epoch_can_be_asked_for(ask, capsys):
    assert ask("last", "--at", "epoch:1", "--json") == 0
    assert told(capsys)["epoch"] == 1
    assert ask("last", "--at", "epoch:0", "--json") == 0
    before = told(capsys)

    assert (before["last_decision"], before["last_checkpoint"], before["breakers"]) == (None, None, {})
    assert [seed["stage"] for seed in before["seeds"]] == ["GERMINATED", "DORMANT", "DORMANT"]


def test_a_person_reads_lines_and_a_table(ask, capsys):
    assert ask("last", "--at", "15") == 0
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == f"run {RUN} at step 15, epoch 1; by now step 20, epoch 2"
    assert "breakers       isolation OPEN" in lines
    assert lines[-3].split()[:5] == ["s1", "layers.9", "TRAINING", "skip_connection", "(BP008)"]


@pytest.mark.parametrize("at", [None, "0", "10", "15", "20", "epoch:0", "epoch:1", "epoch:2"])
def test_the_sql_says_what_the_facts_say_one_by_one(ask, tmp_path, at):
    """Of every place; a fork and a history that cannot be true are folded fact by fact, all others by SQL."""
    place = None if at is None else place_of(at)
    with history_of(tmp_path) as history:
        state, mark, decision = folded(history, RUN, place)
        slow = fold(history, RUN)
        expected = mark_at(slow, RUN, place)

        assert to_json(state, mark, decision, {}) == to_json(slow, expected, decision, {})
        assert decision == decision_on(history, [RUN], packets(slow, expected))
        assert mark.model.seeds == dict(expected.model.seeds)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["last", "--at", "soon"], "--at 'soon' is neither a step, such as 120, nor an epoch, such as epoch:7"),
        (["last", "--at", "21"], f"run {RUN} has no step 21: its facts reach step 20"),
        (["last", "--at", "epoch:3"], f"run {RUN} has no epoch 3: its facts reach epoch 2"),
        (["nobody"], "there is no run 'nobody' in this data folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(ask, capsys, tmp_path, arguments, says):
    assert ask(*(each.format(folder=tmp_path) for each in arguments)) == 2
    said = capsys.readouterr().err

    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("policy", ["constant", "cosine", "warmup", "wsd"])
def test_learning_rates_are_those_that_the_trainer_takes(policy):
    """From the configuration and the changes alone, as the controller itself gives them, to the last digits."""
    controller = LearningRates(
        policy,
        base_rate=0.02,
        total_steps=120,
        warmup_steps=0 if policy == "cosine" else 20,
        decay_share=0.5,
        new_parameter_rate=0.1,
        new_parameter_warmup_steps=10,
    )
    config = {"rate_policy": policy, "learning_rate": 0.02, "rate_warmup_epochs": 2.0, "new_parameter_rate": 0.1}
    config |= {"new_parameter_warmup_epochs": 1.0, "rate_decay_share": 0.5}
    begun = pb.RunStarted(config_json=json.dumps(config), epochs=12, steps_per_epoch=10)
    (added,) = controller.add("s1", 0.5, 31)
    changed = controller.set_base("host", 0.01, "a person's", 44)
    rates = {"s1": Rate(added.new_lr, 31, born=31), "host": Rate(changed.new_lr, 44)}

    for step in (44, 60, 119):
        expected = {group: controller.rate(group, step) for group in ("host", "s1")}
        assert rates_at(ModelState(step=step, learning_rates=rates), begun) == pytest.approx(expected, rel=1e-9)
    own = pb.RunStarted(config_json=json.dumps({**json.loads(begun.config_json), "rate_policy": "own"}))
    assert rates_at(ModelState(step=7, learning_rates={"host": Rate(0.25, 7)}), own) == {"host": 0.25}
    assert rates_at(ModelState(step=7), begun)["host"] == pytest.approx(2 * controller.rate("host", 7), rel=1e-9)


def test_neither_torch_nor_the_tasks_are_imported(ask, tmp_path):
    program = (
        "import sys\nfrom esper.cli.app import dispatch\n"
        f"assert dispatch(['state', 'last', '--at', '15', '--data-dir', {str(tmp_path)!r}]) == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stderr) == (0, "")
