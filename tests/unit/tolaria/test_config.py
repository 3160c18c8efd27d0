"""A configuration is recorded whole and read back the same; what is wrong with one is said in one line."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from esper.errors import InvalidInput
from esper.kasmina.settings import SeedSettings
from esper.tolaria.config import LEGACY, LEGACY_SEEDS, RunConfig


def test_json_holds_every_default_and_reads_back_equal() -> None:
    config = RunConfig(task="chars", decision_timeout_s=None, seeds=SeedSettings(blend_epochs=7))
    written = json.loads(config.to_json())
    assert set(written) == {field.name for field in fields(RunConfig)}
    assert set(written["seeds"]) == {field.name for field in fields(SeedSettings)}
    assert RunConfig.from_json(config.to_json()) == config


def test_fields_left_out_have_their_defaults() -> None:
    assert RunConfig.from_request('{"seed": 3}') == RunConfig(seed=3)


def test_what_an_older_record_does_not_say_means_what_was_so_then() -> None:
    """A configuration of a run that was recorded before a setting existed: the run computes what it computed."""
    recorded = json.loads(RunConfig().to_json())
    older = {name: value for name, value in recorded.items() if name not in LEGACY}
    older["seeds"] = {name: value for name, value in recorded["seeds"].items() if name not in LEGACY_SEEDS}
    then = RunConfig.from_json(json.dumps(older))

    assert {name: getattr(then, name) for name in LEGACY} == LEGACY
    assert {name: getattr(then.seeds, name) for name in LEGACY_SEEDS} == LEGACY_SEEDS
    assert then.axes == ("depth",) != RunConfig().axes
    assert RunConfig.from_json(then.to_json()) == then


def test_what_was_given_is_recorded_and_not_converted() -> None:
    text = RunConfig(weight_decay=0, learning_rate=1, seeds=SeedSettings(harm_z=2)).to_json()
    assert '"weight_decay": 0,' in text
    assert '"learning_rate": 1,' in text
    assert '"harm_z": 2,' in text
    assert RunConfig.from_json(text).to_json() == text


def test_resolving_keeps_what_was_chosen() -> None:
    resolved = RunConfig(epochs=7).resolved(epochs=40, batch_size=50, learning_rate=0.1)
    assert (resolved.epochs, resolved.batch_size, resolved.learning_rate) == (7, 50, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"policy": "clever"},
            "policy is 'clever', which is unknown; choose heuristic, random, explore, none, learned",
        ),
        ({"rate_policy": "step"}, "rate_policy is 'step', which is unknown; choose constant, cosine, warmup, wsd"),
        ({"axes": ("depth", "height")}, r"axes is \('depth', 'height'\), which is unknown; choose depth, width, heads"),
        ({"rate_decay_share": 1.5}, "rate_decay_share is 1.5; it must be 1 at most"),
        ({"optimizer": "lion"}, "optimizer is 'lion', which is unknown; choose adamw, sgd"),
        ({"epochs": 0}, "epochs is 0; it must be above 0"),
        ({"decision_timeout_s": -1.0}, "decision_timeout_s is -1.0; it must be above 0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0; it must be above 0"),
        ({"seed": -1}, "seed is -1; it must be 0 at least"),
        ({"weight_decay": float("nan")}, "weight_decay is nan; it must be 0 at least"),
        ({"epochs": "ten"}, "epochs is 'ten'; it must be a valid integer"),
        ({"threads": 1.5}, "threads is 1.5; it must be a valid integer"),
        ({"drill": "yes"}, "drill is 'yes'; it must be a valid boolean"),
        ({"pool": "BP009"}, "pool is 'BP009'; it must be a valid tuple"),
        ({"pcgrad": True}, "pcgrad compares the gradients of microbatches"),
    ],
)
def test_a_value_out_of_range_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        RunConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"learning": 1}', "configuration field learning does not exist"),
        ('{"seeds": {"depth": 1}}', r"configuration field seeds\.depth does not exist"),
    ],
)
def test_text_that_is_no_configuration_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        RunConfig.from_json(text)
