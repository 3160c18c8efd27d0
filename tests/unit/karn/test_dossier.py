"""A dossier: what of it a run records, read back as it was, and what of it a site offers."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from contracts.leyline.v1.event_pb2 import BlueprintOutcomes, SiteDescription
from contracts.leyline.v1.leyline_pb2 import (
    BLUEPRINT_TIER_EXPERIMENTAL,
    BLUEPRINT_TIER_HIGH_RISK,
    BLUEPRINT_TIER_SAFE,
    HANDLING_CLASS_QUARANTINE,
    HANDLING_CLASS_RESTRICTED,
    HANDLING_CLASS_STANDARD,
    HANDLING_CLASS_UNSPECIFIED,
    HAZARD_BAND_CRITICAL,
    HAZARD_BAND_HIGH,
    HAZARD_BAND_MEDIUM,
)
from esper.errors import InvalidInput
from esper.karn.approval import Approval, Clearance
from esper.karn.catalogue import DEFAULT_POOL, SAFE_POOL, offer, options, pool
from esper.karn.dossier import Dossier, Outcomes, Sheet
from esper.karn.table import CATALOGUE

IMAGE = SiteDescription(site="blocks.0", seed_id="s1", shape_kind="image", shape=(4, 8, 8))
APPROVED = {name: Approval("a tester", "tests") for name in CATALOGUE}
PAST = Dossier(
    {"BP039": Approval("ada", "ODEs on spirals"), "BP036": Approval("bob", "a try")},
    (Sheet("BP009", 0.9, "CRITICAL", "QUARANTINE"), Sheet("BP030", 0.1, "LOW", "STANDARD")),
    (Outcomes("BP009", "image", 3, 2, 1, 3, -0.25, 0.125), Outcomes("BP009", "vector", 1, 0, 1)),
)


def offered(*names, dossier=PAST, drill=False):
    clearance = Clearance(APPROVED, drill=drill)
    return {option.blueprint_id: option for option in offer(IMAGE, pool=names, dossier=dossier, clearance=clearance)}


def test_a_run_records_what_concerns_it():
    found = PAST.of(["BP009", "BP039"], {"image"})

    assert found.approvals == {"BP039": Approval("ada", "ODEs on spirals")}
    assert [sheet.blueprint_id for sheet in found.sheets] == ["BP009"]
    assert found.outcomes == (PAST.outcomes[0],)


def test_it_is_read_back_as_it_was():
    assert Dossier.from_dict(json.loads(json.dumps(asdict(PAST)))) == PAST
    assert Dossier.from_dict({}) == Dossier()


@pytest.mark.parametrize("wrong", [{"sheets": [{"a": 1}]}, {"approvals": 3}, {"outcomes": [1]}, {"colour": []}])
def test_anything_else_is_refused(wrong):
    with pytest.raises(InvalidInput, match="dossier"):
        Dossier.from_dict(wrong)


def test_an_option_says_tier_stage_sheet_and_past():
    found = offered("BP009", "BP013", "BP036", "BP039", "BP043", drill=True)

    assert (found["BP013"].tier, found["BP013"].stage) == (BLUEPRINT_TIER_SAFE, 1)
    assert (found["BP013"].hazard_band, found["BP013"].handling_class) == (
        HAZARD_BAND_MEDIUM,
        HANDLING_CLASS_UNSPECIFIED,
    )
    assert (found["BP036"].tier, found["BP036"].hazard_band, found["BP036"].handling_class) == (
        BLUEPRINT_TIER_EXPERIMENTAL,
        HAZARD_BAND_HIGH,
        HANDLING_CLASS_RESTRICTED,
    )
    assert found["BP039"].hazard_band == HAZARD_BAND_CRITICAL
    assert (found["BP043"].tier, found["BP043"].handling_class) == (BLUEPRINT_TIER_HIGH_RISK, HANDLING_CLASS_QUARANTINE)
    assert found["BP009"].outcomes == BlueprintOutcomes(
        germinated=3, fossilized=2, culled=1, reports=3, loss_delta_mean=-0.25, loss_delta_stderr=0.125
    )
    assert not found["BP013"].HasField("outcomes")


def test_an_issued_sheet_replaces_karns_own():
    issued, own = offered("BP009")["BP009"], offered("BP009", dossier=Dossier())["BP009"]

    assert (issued.hazard_band, issued.handling_class) == (HAZARD_BAND_CRITICAL, HANDLING_CLASS_QUARANTINE)
    assert (own.hazard_band, own.handling_class) == (HAZARD_BAND_MEDIUM, HANDLING_CLASS_UNSPECIFIED)
    assert HANDLING_CLASS_STANDARD not in (issued.handling_class, own.handling_class)


def test_a_sheet_with_a_word_that_leyline_lacks_is_refused():
    with pytest.raises(InvalidInput, match="'PURPLE' is no hazard band"):
        Sheet("BP009", 0.9, "PURPLE", "STANDARD").message()


def test_what_is_said_beside_the_cost_fits_into_a_state_packet():
    """Of 4 KiB that travel in an event three large image sites take less than half, all safe ones seven eighths."""
    large = [SiteDescription(shape_kind="image", shape=shape) for shape in ((256, 32, 32), (512, 16, 16), (64, 64, 64))]
    sizes = {
        name: sum(
            option.ByteSize() + 2
            for site in large
            for option in offer(site, pool=names, dossier=Dossier(), clearance=Clearance())
        )
        for name, names in (("default", DEFAULT_POOL), ("safe", SAFE_POOL))
    }
    assert sizes["default"] < 2048
    assert sizes["safe"] < 3584


def test_pools_have_names_and_mix_with_ids():
    assert pool(["default"]) == tuple(sorted(DEFAULT_POOL))
    assert pool(["safe"]) == SAFE_POOL
    assert pool(["BP039", "default", "BP009"]) == tuple(sorted([*DEFAULT_POOL, "BP039"]))
    for wrong in (["BP099"], ["dangerous"], []):
        with pytest.raises(InvalidInput, match=r"no blueprint|at least one"):
            pool(wrong)


def test_without_a_dossier_the_costs_are_those_of_the_catalogue():
    for plain in options(IMAGE):
        option = offered(plain.blueprint_id, dossier=Dossier())[plain.blueprint_id]
        assert (option.parameters, option.flops_per_sample, option.risk, option.residual) == (
            plain.parameters,
            plain.flops_per_sample,
            plain.risk,
            plain.residual,
        )
