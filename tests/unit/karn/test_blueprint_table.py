"""The facts of every template are those of the original's catalogue, and requests are checked."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from typing import get_type_hints

import pytest

from esper.errors import InvalidInput
from esper.karn import templates
from esper.karn.layers import SeedModule
from esper.karn.table import CATALOGUE, find, find_by_name, formula

TABLE = {
    "BP001": ("identity_passthrough", 0, 0.0, {}),
    "BP002": ("linear_projection", 0, 0.1, {"scale": (0.5, 2.0)}),
    "BP003": ("layer_norm_basic", 0, 0.1, {"epsilon": (1e-6, 1e-3)}),
    "BP004": ("dropout_light", 0, 0.2, {"dropout": (0.0, 0.4)}),
    "BP005": ("relu_activation", 0, 0.1, {}),
    "BP006": ("batch_norm_1d", 0, 0.2, {"momentum": (0.5, 0.99)}),
    "BP007": ("pooling_max", 0, 0.2, {"kernel": (2, 5)}),
    "BP008": ("skip_connection", 1, 0.2, {}),
    "BP009": ("residual_block", 1, 0.3, {"depth": (1, 4)}),
    "BP010": ("concat_fusion", 1, 0.3, {"branches": (2, 4)}),
    "BP011": ("gelu_activation", 1, 0.2, {}),
    "BP012": ("layer_scaling", 1, 0.3, {"scale": (0.8, 1.2)}),
    "BP013": ("grouped_conv", 1, 0.4, {"groups": (2, 8)}),
    "BP014": ("highway_gate", 1, 0.4, {"gate_bias": (-3, 3)}),
    "BP015": ("depthwise_separable", 2, 0.4, {"kernel": (3, 7)}),
    "BP016": ("squeeze_excitation", 2, 0.4, {"reduction": (4, 16)}),
    "BP017": ("channel_attention", 2, 0.4, {"heads": (1, 4)}),
    "BP018": ("spatial_attention", 2, 0.4, {"radius": (1, 3)}),
    "BP019": ("cross_attention", 2, 0.5, {"heads": (2, 4)}),
    "BP020": ("attention_single_head", 2, 0.5, {"sequence_length": (16, 256)}),
    "BP021": ("feedforward_gated", 2, 0.5, {"hidden_multiple": (2, 6)}),
    "BP022": ("multi_head_attention_4", 3, 0.5, {"heads": (4, 6)}),
    "BP023": ("transformer_block", 3, 0.5, {"layers": (1, 6)}),
    "BP024": ("conv_transformer", 3, 0.5, {"kernel": (3, 11)}),
    "BP025": ("dynamic_conv", 3, 0.5, {"experts": (2, 8)}),
    "BP026": ("adaptive_pooling", 3, 0.5, {"output_size": (4, 16)}),
    "BP027": ("feature_pyramid", 3, 0.5, {"levels": (3, 5)}),
    "BP028": ("dense_connection", 3, 0.5, {"growth_rate": (8, 48)}),
    "BP029": ("multi_head_attention_8", 4, 0.5, {"heads": (8, 10)}),
    "BP030": ("graph_attention", 4, 0.5, {"hops": (1, 3)}),
    "BP031": ("temporal_conv", 4, 0.5, {"dilation": (1, 5)}),
    "BP032": ("dilated_conv", 4, 0.5, {"dilation": (1, 8)}),
    "BP033": ("deformable_conv", 4, 0.5, {"offset_groups": (1, 4)}),
    "BP034": ("non_local_block", 4, 0.5, {"window": (4, 16)}),
    "BP035": ("learned_positional", 4, 0.5, {"frequency": (0.1, 1.0)}),
    "BP036": ("mixture_of_experts_4", 5, 0.7, {"experts": (4, 8), "capacity": (1.0, 2.0)}),
    "BP037": ("hierarchical_attention", 5, 0.7, {"levels": (2, 4)}),
    "BP038": ("memory_augmented", 5, 0.8, {"memory_slots": (32, 128)}),
    "BP039": ("neural_ode_block", 5, 0.8, {"steps": (1, 10)}),
    "BP040": ("differentiable_nas", 5, 0.8, {"temperature": (0.5, 2.0)}),
    "BP041": ("meta_learning_layer", 5, 0.8, {"adapt_steps": (1, 5)}),
    "BP042": ("recursive_processing", 5, 0.8, {"depth": (2, 6)}),
    "BP043": ("exploding_gradient", 6, 0.9, {"scale": (5, 20)}),
    "BP044": ("vanishing_gradient", 6, 0.9, {"decay": (0.0, 0.1)}),
    "BP045": ("nan_injection", 6, 1.0, {"frequency": (0.01, 0.1)}),
    "BP046": ("infinite_loop", 6, 1.0, {"iterations": (1000, 10000)}),
    "BP047": ("memory_leak", 6, 1.0, {"growth_rate": (1.0, 5.0)}),
    "BP048": ("deadlock_pattern", 6, 1.0, {"threads": (2, 16)}),
    "BP049": ("race_condition", 6, 0.9, {"window_ns": (10, 1000)}),
    "BP050": ("adversarial_noise", 6, 0.9, {"epsilon": (0.1, 1.0)}),
    "BP051": ("wider_layer", 1, 0.2, {"factor": (0.25, 2.0)}),
    "BP052": ("attention_heads", 1, 0.2, {"factor": (0.25, 2.0)}),
    "BP060": ("residual_conv_1d", 1, 0.3, {"kernel": (3, 7)}),
    "BP061": ("residual_depthwise", 1, 0.3, {"kernel": (3, 7)}),
    "BP062": ("residual_slim", 1, 0.3, {"expansion": (0.5, 4.0)}),
}
FRACTIONAL = {
    *(
        "scale",
        "factor",
        "epsilon",
        "dropout",
        "momentum",
        "gate_bias",
        "hidden_multiple",
        "frequency",
        "capacity",
        "temperature",
    ),
    *("decay", "window_ns", "expansion"),
}


@pytest.mark.requirement("R-KARN-1", "R-KARN-3")
def test_the_catalogue_is_the_table_in_order_of_ids():
    built = {
        blueprint.blueprint_id: (
            blueprint.name,
            blueprint.stage,
            blueprint.risk,
            {setting.name: (setting.minimum, setting.maximum) for setting in blueprint.settings},
        )
        for blueprint in CATALOGUE.values()
    }
    assert built == TABLE
    assert list(CATALOGUE) == sorted(CATALOGUE)


@pytest.mark.requirement("R-KARN-2", "R-KARN-4", "R-KARN-5")
def test_tiers_go_by_id_and_risk_by_tier():
    """R-KARN-1, 2, 4, 5: 35 safe, 7 that need an approval, 8 for the quarantine; safe ones beyond the plan's fifty."""
    bands = {"safe": (0.0, 0.5), "experimental": (0.5, 0.8), "high_risk": (0.8, 1.0)}
    tiers = []
    for blueprint in CATALOGUE.values():
        low, high = bands[blueprint.tier]
        assert low <= blueprint.risk <= high
        assert blueprint.approval_required == (blueprint.tier != "safe")
        assert blueprint.quarantine_only == (blueprint.tier == "high_risk")
        tiers.append(blueprint.tier)
    assert list(CATALOGUE)[:50] == [f"BP{number:03d}" for number in range(1, 51)]
    assert tiers[:50] == ["safe"] * 35 + ["experimental"] * 7 + ["high_risk"] * 8
    assert set(tiers[50:]) == {"safe"}
    assert sum(len(blueprint.settings) for blueprint in list(CATALOGUE.values())[:50]) == 47


@pytest.mark.requirement("R-KARN-3")
def test_defaults_are_inside_the_bounds_and_whole_where_they_must_be():
    for blueprint in CATALOGUE.values():
        resolved = blueprint.resolve({})
        assert set(resolved) == {setting.name for setting in blueprint.settings}
        for setting in blueprint.settings:
            assert setting.minimum <= resolved[setting.name] <= setting.maximum
            assert setting.integer == (setting.name not in FRACTIONAL and blueprint.blueprint_id != "BP047"), (
                setting.name
            )


@pytest.mark.requirement("R-KARN-6")
@pytest.mark.parametrize("blueprint_id", [name for name, row in TABLE.items() if row[3]])
def test_bounds_are_inclusive_and_what_lies_beyond_is_refused(blueprint_id):
    blueprint = find(blueprint_id)
    for setting in blueprint.settings:
        for bound in (setting.minimum, setting.maximum):
            assert blueprint.resolve({setting.name: bound})[setting.name] == bound
        span = setting.maximum - setting.minimum
        for beyond in (
            setting.minimum - 0.01 * span,
            setting.maximum + 0.01 * span,
            math.nan,
            math.inf,
            -math.inf,
            1e300,
        ):
            with pytest.raises(InvalidInput, match=setting.name):
                blueprint.resolve({setting.name: beyond})


def test_a_bound_that_went_through_a_32_bit_float_is_the_bound():
    as_single = 9.999999974752427e-07  # what a command makes of 1e-6
    assert as_single < 1e-6
    assert find("BP003").resolve({"epsilon": as_single})["epsilon"] == 1e-6


def test_a_fraction_of_a_whole_setting_is_refused():
    with pytest.raises(InvalidInput, match="whole number"):
        find("BP009").resolve({"depth": 1.5})


@pytest.mark.requirement("R-KARN-6")
def test_an_unknown_setting_and_an_unknown_blueprint_are_named():
    with pytest.raises(InvalidInput, match="BP009 has no setting 'width'; it has depth"):
        find("BP009").resolve({"width": 2})
    with pytest.raises(InvalidInput, match="no blueprint 'BP999'"):
        find("BP999")


def test_a_request_by_name_must_give_every_setting():
    assert find("BP036").require({"experts": 4, "capacity": 2.0}) == {"experts": 4, "capacity": 2.0}
    with pytest.raises(InvalidInput, match=r"BP036 mixture_of_experts_4 also needs capacity in \[1, 2\]"):
        find("BP036").require({"experts": 4})


def test_every_template_has_tags_and_says_what_it_does():
    for blueprint in CATALOGUE.values():
        assert blueprint.tags
        assert blueprint.description
        assert ("stressor" in blueprint.tags) == blueprint.quarantine_only


def test_every_row_has_its_function_and_every_function_its_row():
    made = {
        (family.name, name)
        for family in pkgutil.iter_modules(templates.__path__)
        for name, function in vars(importlib.import_module(f"{templates.__name__}.{family.name}")).items()
        if inspect.isfunction(function) and get_type_hints(function).get("return") is SeedModule
    }

    assert made == {(row.family, row.name) for row in CATALOGUE.values()}


@pytest.mark.parametrize("word", ["BP016", "bp016", "squeeze_excitation", " BP016 "])
def test_a_template_is_found_by_id_or_name(word):
    assert find_by_name(word).blueprint_id == "BP016"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("BP16", "did you mean BP016 squeeze_excitation"),
        ("squeeze", "there is no blueprint 'squeeze'"),
        ("residual-block", "did you mean BP009 residual_block"),
        ("?", f"the catalogue has BP001 to {max(CATALOGUE)}"),
    ],
)
def test_a_template_that_is_not_there_is_told_of_with_those_that_come_near(word, says):
    with pytest.raises(InvalidInput, match=says):
        find_by_name(word)


def test_every_template_has_a_formula_that_names_it():
    for name, each in CATALOGUE.items():
        assert formula(each).startswith((f"{name} {each.name}: ", f"{name} {each.name} (stressor): "))
