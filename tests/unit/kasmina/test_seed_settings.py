"""Every setting has a default, is recorded, and a bad value is named where it is given."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from esper.errors import InvalidInput
from esper.kasmina.settings import SeedSettings


def test_defaults_are_those_of_the_rulings():
    settings = SeedSettings()
    assert (settings.embargo_epochs, settings.training_rule, settings.host_rule) == (5, "side_pass", "learns")
    assert (settings.isolation_violations, settings.isolation_window_s) == (3, 30.0)


def test_settings_survive_json():
    settings = SeedSettings(training_epochs=7, host_rule="detached")
    assert SeedSettings(**json.loads(json.dumps(asdict(settings)))) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training_epochs", 0),
        ("blend_epochs", -1),
        ("shadow_epochs", 0),
        ("probation_epochs", 0),
        ("germination_steps", 0),
        ("reset_epochs", 0),
        ("embargo_epochs", -1),
        ("probation_patience", 0),
        ("isolation_violations", 0),
        ("lifecycle", "quick"),
        ("training_rule", "hope"),
        ("host_rule", "maybe"),
        ("side_pass_alpha", 0.0),
        ("side_pass_alpha", float("nan")),
        ("min_blended_alpha", 1.5),
        ("alpha_temperature", 0.0),
        ("isolation_window_s", 0.0),
        ("harm_z", -1.0),
        ("max_output_ratio", float("inf")),
    ],
)
def test_bad_value_is_named(name, value):
    with pytest.raises(InvalidInput, match=f"seed setting {name} is"):
        SeedSettings(**{name: value})
