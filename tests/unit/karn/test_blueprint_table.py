"""The facts of every template are those of the original's catalogue, and requests are checked."""

from __future__ import annotations

import math

import pytest

from esper.errors import InvalidInput
from esper.karn.catalogue import CATALOGUE, find

TABLE = {
    "BP001": ("identity_passthrough", 0, 0.0, {}),
    "BP002": ("linear_projection", 0, 0.1, {"scale": (0.5, 2.0)}),
    "BP003": ("layer_norm_basic", 0, 0.1, {"epsilon": (1e-6, 1e-3)}),
    "BP005": ("relu_activation", 0, 0.1, {}),
    "BP008": ("skip_connection", 1, 0.2, {}),
    "BP009": ("residual_block", 1, 0.3, {"depth": (1, 4)}),
    "BP011": ("gelu_activation", 1, 0.2, {}),
    "BP012": ("layer_scaling", 1, 0.3, {"scale": (0.8, 1.2)}),
    "BP013": ("grouped_conv", 1, 0.4, {"groups": (2, 8)}),
    "BP014": ("highway_gate", 1, 0.4, {"gate_bias": (-3, 3)}),
    "BP015": ("depthwise_separable", 2, 0.4, {"kernel": (3, 7)}),
    "BP016": ("squeeze_excitation", 2, 0.4, {"reduction": (4, 16)}),
    "BP018": ("spatial_attention", 2, 0.4, {"radius": (1, 3)}),
    "BP020": ("attention_single_head", 2, 0.5, {"sequence_length": (16, 256)}),
    "BP021": ("feedforward_gated", 2, 0.5, {"hidden_multiple": (2, 6)}),
    "BP022": ("multi_head_attention_4", 3, 0.5, {"heads": (4, 6)}),
    "BP023": ("transformer_block", 3, 0.5, {"layers": (1, 6)}),
}
FRACTIONAL = {"scale", "epsilon", "gate_bias", "hidden_multiple"}


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


def test_all_are_safe_and_need_no_approval():
    for blueprint in CATALOGUE.values():
        assert blueprint.tier == "safe"
        assert blueprint.risk <= 0.5
        assert not blueprint.approval_required
        assert not blueprint.quarantine_only


def test_defaults_are_inside_the_bounds_and_whole_where_they_must_be():
    for blueprint in CATALOGUE.values():
        resolved = blueprint.resolve({})
        assert set(resolved) == {setting.name for setting in blueprint.settings}
        for setting in blueprint.settings:
            assert setting.minimum <= resolved[setting.name] <= setting.maximum
            assert setting.integer == (setting.name not in FRACTIONAL)


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


def test_an_unknown_setting_and_an_unknown_blueprint_are_named():
    with pytest.raises(InvalidInput, match="BP009 has no setting 'width'; it has depth"):
        find("BP009").resolve({"width": 2})
    with pytest.raises(InvalidInput, match="no blueprint 'BP999'"):
        find("BP999")
