"""What `esper submit` comes to: a grid of configurations, and what is wrong with a file, by its line."""

from __future__ import annotations

import pytest

from contracts.leyline.v1.event_pb2 import RunRequested
from esper.cli.fleet.attempt import ending_of
from esper.cli.fleet.submit import Submission, requests
from esper.cli.fleet.sweep import DECISION_S, asked_for, read_sweep
from esper.cli.trainers import Outcome
from esper.errors import InvalidInput
from esper.tolaria.config import RunConfig

SWEEP = """
task: [digits, spirals]
seeds: [0, 7]
epochs: 3
lifecycle: swift
control: true
set:
  learning_rate: [0.01, 0.02]
  seeds.blend_epochs: 2
"""


@pytest.fixture
def sweep(tmp_path):
    def write(text):
        path = tmp_path / "sweep.yaml"
        path.write_text(text)
        return path

    return write


def test_a_sweep_is_each_task_with_each_setting_and_each_seed_and_all_know_the_same(sweep, tmp_path):
    asked = asked_for(str(sweep(SWEEP)), ["momentum=0.5"], epochs=4)
    found = list(asked.configs(tmp_path))
    first, labels = found[0]

    assert asked.count == len(found) == 8
    assert {(c.task, c.seed, c.learning_rate) for c, _ in found} == {
        (task, seed, rate) for task in ("digits", "spirals") for seed in (0, 7) for rate in (0.01, 0.02)
    }
    assert (first.epochs, first.momentum, first.seeds.lifecycle, first.seeds.blend_epochs) == (4, 0.5, "swift", 2)
    assert first.decision_timeout_s == DECISION_S
    assert labels == {"task": "digits", "seed": "0", "learning_rate": "0.01"}


def test_a_request_has_the_whole_configuration_and_a_control_run_is_a_run_of_its_own(sweep, tmp_path):
    asked = asked_for(str(sweep(SWEEP)), ["learning_rate=0.01"], seeds=(5,), attempts=2, priority=9)
    events = list(requests(Submission(tmp_path, asked, wait=False, as_json=False), "batch"))
    grown, control = events[0], events[1]
    body: RunRequested = control.run_requested
    config = RunConfig.from_json(body.config_json)

    assert len(events) == 4
    assert control.run_id == f"{grown.run_id}-control"
    assert (config.control_of, config.policy, config.seed) == (grown.run_id, "none", 5)
    assert [event.run_requested.place for event in events] == [0, 1, 2, 3]
    assert (body.max_attempts, body.priority, body.batch, body.begin) == (2, 9, "batch", "start")


def test_a_task_of_ones_own_goes_along(tmp_path):
    (tmp_path / "mine.py").write_text("def make():\n    pass\n")
    asked = asked_for(f"{tmp_path}/mine.py:make", [])
    (event,) = requests(Submission(tmp_path, asked, wait=False, as_json=False), "batch")
    digest = event.run_requested.task_source.removeprefix("file:")

    assert len(digest) == 64
    assert list((tmp_path / "objects" / digest[:2]).iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: 0..2\n", ":1: a sweep needs a task"),
        ("- digits\n", ":1: a sweep has a name and a value on each line"),
        ("task: digits\nsedes: 0..2\n", ":2: 'sedes' is no part of a sweep; did you mean seeds?"),
        ("task: digits\ntask: chars\n", ":2: task is given twice"),
        ("task: [digits\nseeds: 0\n", ":2: not YAML: "),
        ("task: digits\nseeds: 3..1\n", ":2: seeds '3..1' are 0 random seeds"),
        ("task: digits\nepochs: many\n", ":2: epochs is 'many'; it must be a whole number from 1 on"),
        ("task: digits\nepochs: [1, 2]\n", ":2: epochs takes one value"),
        ("task: digits\npolicy: wild\n", ":2: policy 'wild' is unknown; choose heuristic"),
        ("task: digits\ncontrol: maybe\n", ":2: control is 'maybe'; it must be true or false"),
        ("task: digits\nset: 3\n", ":2: set has settings below it"),
        (
            "task: digits\nset:\n  lerning_rate: 1\n",
            ":3: there is no setting 'lerning_rate'; did you mean learning_rate?",
        ),
        ("task: digits\nset:\n  momentum: 0.5\n  learning_rate: [0.1, -2]\n", ":4: learning_rate is -2.0; it must be"),
        ("task:\n- digits\n- digitz\n", ":1: task 'digitz' is unknown; did you mean digits?"),
        ("task: {a: 1}\n", ":1: task is neither a value nor a list of values"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(sweep, tmp_path, text, said):
    path = sweep(text)
    with pytest.raises(InvalidInput) as raised:
        list(read_sweep(path).configs(tmp_path))

    assert f"{path}{said}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("outcome", "stopped", "status"),
    [
        (Outcome({"status": "completed", "reason": ""}), False, "completed"),
        (Outcome({"status": "failed", "reason": "the task raised"}), False, "failed"),
        (Outcome({"status": "interrupted", "reason": "asked to stop"}), True, "interrupted"),
        (Outcome({"status": "interrupted", "reason": "the disk is full"}), False, "died"),
        (Outcome({"status": "interrupted", "reason": "emergency: fire"}), False, "failed"),
        (Outcome({"status": "superseded", "reason": "taken over"}), False, "interrupted"),
        (Outcome(None, "there is no device cuda", wrong_input=True), False, "failed"),
        (Outcome(None, "the trainer was killed by SIGKILL"), False, "died"),
        (Outcome(None, "the trainer was killed by SIGTERM"), True, "interrupted"),
    ],
)
def test_what_a_trainers_end_means_for_its_run(outcome, stopped, status):
    assert ending_of(outcome, stopped=stopped).status == status
