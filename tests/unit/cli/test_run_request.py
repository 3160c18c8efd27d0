"""What `esper run` makes of its options: the pool, the drill and what the data folder's history knows."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from contracts.leyline.v1.event_pb2 import BlueprintApproved
from contracts.topics import BLUEPRINTS
from esper.cli.app import dispatch
from esper.cli.commands.options import random_seeds
from esper.cli.run import TASKS, RunRequest
from esper.errors import InvalidInput
from esper.karn.approval import Approval
from esper.karn.dossier import Dossier
from esper.leyline.envelope import new_event
from esper.tolaria.config import RunConfig
from esper.tolaria.settings_text import beyond_defaults
from projections.archive_writer import Archive
from projections.records import StoredRecord


@pytest.fixture
def request_(tmp_path: Path) -> RunRequest:
    return RunRequest(
        data_dir=tmp_path,
        task="digits",
        epochs=None,
        seed=3,
        policy="heuristic",
        lifecycle="full",
        rate_policy=None,
        device="cpu",
        pool=("default",),
        drill=(),
        compiled_kernels=False,
        control=True,
        ignore_history=False,
        as_json=True,
    )


def approve(folder: Path, blueprint_id: str) -> None:
    body = BlueprintApproved(blueprint_id=blueprint_id, approved=True, by="ada", why="to see")
    event = new_event(body, event_id=bytes(16), run_id="", producer="cli", recorded_at_ns=1)
    with Archive(folder / "archive") as archive:
        archive.append([StoredRecord(BLUEPRINTS.name, 0, 0, 1, b"k", event.SerializeToString(), ())])


def test_without_options_and_history_it_is_the_default(request_) -> None:
    grown, control = request_.configs()

    assert (grown.pool, grown.drill, grown.dossier) == (("default",), False, Dossier())
    assert control is not None
    assert (control.policy, control.pool) == ("none", ("default",))


@pytest.mark.parametrize(
    ("changes", "compares"),
    [
        ({}, True),
        ({"task": "digits@900"}, True),
        ({"task": "mine.py:task"}, False),
        ({"control": False}, False),
        ({"policy": "none"}, False),
        ({"drill": ("BP044",)}, False),
        ({"task": "mine.py:task", "static": True}, True),
        ({"static": False}, False),
    ],
)
def test_what_grew_is_trained_as_a_static_net_where_a_built_in_task_has_a_control(request_, changes, compares) -> None:
    assert replace(request_, **changes).compares == compares


def test_a_static_net_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["run", "--policy", "none", "--static", "--data-dir", str(tmp_path)]) == 2
    assert "--static trains what grew, and with --policy none nothing grows" in capsys.readouterr().err


def test_the_rate_policy_is_the_control_runs_too_and_one_default_holds_for_every_task(request_) -> None:
    for task in ("digits", "chars", "mine.py:make"):
        assert replace(request_, task=task).configs()[0].rate_policy == RunConfig().rate_policy
    grown, control = replace(request_, rate_policy="wsd").configs()

    assert control is not None
    assert (grown.rate_policy, control.rate_policy) == ("wsd", "wsd")


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        (("seeds.blend_epochs=2",), ("seeds", "blend_epochs", 2)),
        (("seeds.lifecycle=swift",), ("seeds", "blend_epochs", 0)),
        (("seeds.lifecycle=swift", "seeds.blend_epochs=1"), ("seeds", "blend_epochs", 1)),
        (("seeds.freeze_fossils=yes",), ("seeds", "freeze_fossils", True)),
        (("weight_decay = 1e-3",), ("", "weight_decay", 1e-3)),
        (("learning_rate=1",), ("", "learning_rate", 1.0)),
        (("microbatches=2", "pcgrad=on"), ("", "pcgrad", True)),
        (("measuring_share=none",), ("", "measuring_share", None)),
        (("axes=width",), ("", "axes", ("width",))),
        (("optimizer=sgd",), ("", "optimizer", "sgd")),
    ],
)
def test_set_reaches_any_setting_in_its_type_in_the_control_run_too(request_, pairs, found) -> None:
    part, name, value = found
    for config in replace(request_, settings=pairs).configs():
        assert config is not None
        assert getattr(config.seeds if part else config, name) == value


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("blend_epochs=2", "did you mean seeds.blend_epochs?"),
        ("optimiser=sgd", "did you mean optimizer?"),
        ("zzz=1", "`esper run --set help` lists them"),
        ("weight_decay", "is no NAME=VALUE"),
        ("weight_decay=abc", "weight_decay is 'abc'; it must be a number"),
        ("weight_decay=-1", "weight_decay is -1.0; it must be 0 at least"),
        ("clip_norm=inf", "clip_norm is inf; it must be a finite number"),
        ("momentum=1", "momentum is 1.0; it must be below 1"),
        ("microbatches=1.5", "microbatches is '1.5'; it must be a whole number"),
        ("epochs=some", "epochs is 'some'; it must be a whole number or none"),
        ("optimizer=adam", "optimizer is 'adam', which is unknown; choose adamw, sgd"),
        ("pcgrad=maybe", "it must be true or false"),
        ("seeds.rules=3", "seed setting rules is 3, which is unknown; choose 1, 2"),
        ("seeds.harm_share=-1", "seed setting harm_share is -1.0; it must be 0 at least"),
        ("seed=3", "seed has an option of its own: --seed 3"),
        ("structure=x", "structure is not for --set"),
    ],
)
def test_a_setting_that_cannot_be_is_told_in_one_line(request_, pair, says) -> None:
    with pytest.raises(InvalidInput) as refused:
        replace(request_, settings=(pair,)).configs()

    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_setting_is_listed_with_its_default_and_what_it_may_be(capsys) -> None:
    assert dispatch(["run", "--set", "help", "--json"]) == 0
    listed = {each["setting"]: each for each in json.loads(capsys.readouterr().out)}

    assert listed["seeds.blend_epochs"] == {
        "setting": "seeds.blend_epochs",
        "default": 3,
        "allowed": "a whole number from 0",
    }
    assert listed["measuring_share"]["allowed"] == "a number from 0 and up to 1 or none"
    assert listed["optimizer"]["allowed"].startswith("adamw, sgd")
    assert {each.name for each in fields(RunConfig)} - {name.split(".")[0] for name in listed} == {
        *("task", "seed", "policy", "device", "pool", "drill"),
        *("control_of", "static_of", "structure", "dossier"),
    }


@pytest.mark.parametrize(
    "pairs",
    [
        (),
        ("weight_decay=0.5", "seeds.blend_epochs=2"),
        ("measuring_share=none", "axes=width", "pcgrad=true", "microbatches=2"),
        ("seeds.proof_epochs=7", "growth_budget_factor=2.0"),
        ("learning_rate=0.01", "batch_size=25", "decision_timeout_s=none"),
    ],
)
@pytest.mark.parametrize("lifecycle", ["careful", "swift", "direct"])
def test_a_recorded_run_says_how_it_is_asked_for_again(request_, pairs, lifecycle) -> None:
    """Defaults that follow from the lifecycle are none that a person gave."""
    config, _ = replace(request_, lifecycle=lifecycle, settings=pairs).configs()
    told = beyond_defaults(json.loads(config.to_json()))

    assert sorted(told) == sorted(pairs)
    assert replace(request_, lifecycle=lifecycle, settings=tuple(told)).configs()[0] == config


def test_of_an_older_record_it_says_what_was_so_then() -> None:
    told = beyond_defaults({"seeds": {"lifecycle": "full"}, "learning_rate": 0.02})

    assert {"learning_rate=0.02", "axes=depth", "measuring_share=none", "seeds.rules=1"} <= set(told)


def test_a_setting_that_is_given_twice_is_refused(request_) -> None:
    with pytest.raises(InvalidInput, match="gives weight_decay twice"):
        replace(request_, settings=("weight_decay=0", "weight_decay=1")).configs()


@pytest.mark.parametrize(
    ("text", "seeds"), [("", ()), ("0..4", (0, 1, 2, 3, 4)), ("3,1,3", (3, 1)), ("7", (7,)), (" 2 .. 3 ", (2, 3))]
)
def test_random_seeds_are_a_range_or_a_list(text, seeds) -> None:
    assert random_seeds(text) == seeds


@pytest.mark.parametrize("text", ["4..0", "0..", "a,b", "-1..2", "0..100000", "1;2"])
def test_what_is_no_range_of_random_seeds_is_told(text) -> None:
    with pytest.raises(InvalidInput, match="--seeds"):
        random_seeds(text)


def test_a_drill_adds_its_stressors_to_the_pool(request_) -> None:
    grown, _ = replace(request_, drill=("BP043", "BP045")).configs()

    assert (grown.pool, grown.drill) == (("default", "BP043", "BP045"), True)


def test_approvals_come_from_the_history_even_where_outcomes_do_not(request_) -> None:
    approve(request_.data_dir, "BP039")
    for ignore in (False, True):
        grown, control = replace(request_, ignore_history=ignore).configs()
        assert grown.dossier.approvals == {"BP039": Approval("ada", "to see")}
        assert control is not None
        assert control.dossier == grown.dossier


def test_the_help_tells_of_pool_drill_and_history(capsys) -> None:
    assert dispatch(["run", "--help"]) == 0
    told = capsys.readouterr().out

    assert all(option in told for option in ("--pool", "--drill", "--ignore-history"))


def test_the_names_of_tasks_are_known_without_torch():
    from esper.tolaria.tasks import BUILTIN

    assert tuple(BUILTIN) == TASKS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--task", "digit"), "task 'digit' is unknown"),
        (("--task", "nowhere.py:task"), "task file nowhere.py does not exist"),
        (("--device", "gpu"), "device 'gpu' is unknown"),
        (("--pool", "BP999"), "there is no blueprint 'BP999'"),
        (("--epochs", "0"), "epochs is 0"),
        (("--set", "seeds.blend_epoch=2"), "there is no setting 'seeds.blend_epoch'; did you mean seeds.blend_epochs?"),
    ],
)
def test_a_mistyped_name_is_told_within_a_second_without_torch_and_before_anything_starts(tmp_path, arguments, says):
    """Counted in processor time, which does not depend on what else the machine does."""
    program = (
        "import sys\nfrom esper.cli.app import dispatch\ncode = dispatch(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)"
    )
    command = [sys.executable, "-c", program, "run", *arguments, "--data-dir", str(tmp_path / "data")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "data").exists()
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 1.0
