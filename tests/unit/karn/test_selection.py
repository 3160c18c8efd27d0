"""Finding, choosing and approving templates: R-KARN-6 to 11 and 17, and the risk sheets of R-KARN-19 and 20."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.leyline.v1.event_pb2 import BlueprintApproved
from esper.errors import InvalidInput
from esper.karn.approval import UNCLEARED, Approval, Clearance, approve, evolve_approvals
from esper.karn.blueprint import ALL_KINDS
from esper.karn.catalogue import CATALOGUE, CONSERVATIVE_POOL, SAFE_POOL, find
from esper.karn.descriptor import descriptor, registered
from esper.karn.queries import search, tags
from esper.karn.risk_sheet import band, consequence, risk_sheet
from esper.karn.selection import Request, by_context, fallback, select

EVERYTHING = Clearance({name: Approval("a tester", "tests") for name in CATALOGUE}, drill=True)
CONTEXTS = [f"run {number}: images, 10 classes" for number in range(300)]


def ids(blueprints):
    return [blueprint.blueprint_id for blueprint in blueprints]


def test_search_answers_by_id_tier_stage_tag_and_shape():
    assert ids(search()) == list(CATALOGUE)
    assert ids(search(blueprint_id="BP033")) == ["BP033"]
    assert ids(search(blueprint_id="BP099")) == []
    assert ids(search(tier="experimental")) == [f"BP{number:03d}" for number in range(36, 43)]
    assert [len(search(stage=stage)) for stage in range(7)] == [7, 7, 7, 7, 7, 7, 8]
    assert ids(search(tag="pooling")) == ["BP007", "BP026"]
    assert ids(search(tag="conv", kind="vector")) == ["BP013", "BP025", "BP028"]
    assert set(ids(search(kind="token"))) - set(ids(search(kind="image"))) == {"BP031"}
    assert "stressor" in tags()


def test_a_descriptor_says_what_the_template_is_and_may_be_edited():
    message = descriptor(find("BP036"))
    assert (message.tier, message.stage, message.approval_required, message.quarantine_only) == (
        leyline.BLUEPRINT_TIER_EXPERIMENTAL,
        5,
        True,
        False,
    )
    assert {name: (b.min_value, b.max_value) for name, b in message.allowed_parameters.items()} == {
        "experts": (4.0, 8.0),
        "capacity": (1.0, 2.0),
    }
    message.name = "changed"
    message.allowed_parameters["experts"].max_value = 99.0
    assert descriptor(find("BP036")).allowed_parameters["experts"].max_value == 8.0
    assert list(registered(find("BP031")).shape_kinds) == ["token"]


def test_without_a_tier_only_the_safe_ones_are_chosen():
    """R-KARN-7, whatever the caller may hold."""
    chosen = {select(Request(context=text), EVERYTHING).blueprint.blueprint_id for text in CONTEXTS * 2}
    assert chosen <= set(SAFE_POOL)
    assert len(chosen) == 35


@pytest.mark.parametrize("blueprint_id", [f"BP{number:03d}" for number in range(43, 51)])
def test_no_stressor_can_be_had_outside_a_drill(blueprint_id):
    """R-KARN-8: by id, by tier, by stage, by tag; an approval alone does not help."""
    approved = Clearance(EVERYTHING.approvals)
    settings = find(blueprint_id).resolve({})
    for clearance in (UNCLEARED, approved):
        for request in (
            Request(blueprint_id, parameters=settings),
            Request(tier="high_risk", context="x"),
            Request(tier="high_risk", stage=6, tag="stressor"),
        ):
            with pytest.raises(InvalidInput, match="inside a quarantine drill only"):
                select(request, clearance)
    assert select(Request(blueprint_id, parameters=settings), EVERYTHING).blueprint is find(blueprint_id)


def test_an_experimental_template_needs_its_own_approval():
    """R-KARN-9."""
    request = Request("BP039", parameters={"steps": 4})
    with pytest.raises(InvalidInput, match="BP039 neural_ode_block is experimental and not approved"):
        select(request, UNCLEARED)
    with pytest.raises(InvalidInput, match="not approved"):
        select(Request(tier="experimental"), UNCLEARED)
    one = Clearance({"BP039": Approval("ada", "ODEs on spirals")})
    assert select(request, one).settings == {"steps": 4.0}
    assert {select(Request(tier="experimental", context=text), one).blueprint.blueprint_id for text in CONTEXTS} == {
        "BP039"
    }


def test_approvals_fold_from_events_that_say_who_and_why():
    event = approve(find("BP039"), by="ada", why="ODEs on spirals")
    approvals = evolve_approvals({}, event)
    assert approvals == {"BP039": Approval("ada", "ODEs on spirals")}
    assert evolve_approvals(approvals, event) == approvals
    back = approve(find("BP039"), by="ada", why="it diverged", approved=False)
    assert evolve_approvals(approvals, back) == {}
    assert evolve_approvals(approvals, BlueprintApproved(blueprint_id="BP040", approved=True, by="bob")) == approvals
    assert approvals == {"BP039": Approval("ada", "ODEs on spirals")}
    with pytest.raises(InvalidInput, match="must say by whom"):
        approve(find("BP039"), by=" ", why="because")
    with pytest.raises(InvalidInput, match="needs no approval"):
        approve(find("BP009"), by="ada", why="because")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, r"also needs depth in \[1, 4\]"),
        ({"depth": 5}, "outside"),
        ({"depth": float("nan")}, "outside"),
        ({"depth": 1.5}, "whole number"),
        ({"depth": 1, "width": 2}, "no setting 'width'"),
    ],
)
def test_a_named_request_is_checked_whole(parameters, message):
    """R-KARN-6."""
    with pytest.raises(InvalidInput, match=message):
        select(Request("BP009", parameters=parameters), UNCLEARED)


def test_a_described_request_takes_defaults_and_refuses_what_is_wrong():
    request = Request(tag="residual", stage=1, kind="vector", context="c")
    assert select(request, UNCLEARED).blueprint.blueprint_id in ("BP008", "BP009")
    with pytest.raises(InvalidInput, match="no setting 'nonsense'"):
        select(Request(context="c", parameters={"nonsense": 1.0}), UNCLEARED)
    with pytest.raises(InvalidInput, match="no template is tier safe, stage 6"):
        select(Request(stage=6), UNCLEARED)
    with pytest.raises(InvalidInput, match="does not serve a vector site"):
        select(Request("BP007", kind="vector", parameters={"kernel": 2}), UNCLEARED)


def test_conservative_means_the_first_ten():
    """R-KARN-10."""
    chosen = {select(Request(context=text, conservative=True), UNCLEARED).blueprint.blueprint_id for text in CONTEXTS}
    assert sorted(chosen) == [f"BP{number:03d}" for number in range(1, 11)] == list(CONSERVATIVE_POOL)
    with pytest.raises(InvalidInput, match="BP011 is not conservative"):
        select(Request("BP011", conservative=True), UNCLEARED)


@given(st.text(st.characters()), st.randoms(use_true_random=False))
def test_a_context_chooses_by_its_hash_whatever_the_order(text, shuffler):
    """R-KARN-10, 11: first four bytes of SHA-256, big-endian, modulo the size of the pool in order of ids."""
    pool = list(CATALOGUE.values())
    expected = pool[int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) % 50]
    shuffler.shuffle(pool)
    assert by_context(pool, text) is expected
    assert by_context(pool, None) is CATALOGUE["BP001"]


def test_another_process_chooses_the_same():
    code = (
        "from esper.karn.selection import *; from esper.karn.approval import UNCLEARED;"
        "print(select(Request(context='spirals'), UNCLEARED).blueprint.blueprint_id)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == select(Request(context="spirals"), UNCLEARED).blueprint.blueprint_id


@pytest.mark.parametrize("kind", [*ALL_KINDS, None])
def test_the_fallback_serves_whatever_is_asked(kind):
    """R-KARN-13."""
    for request in (
        Request("BP999", kind=kind),
        Request("BP043", kind=kind, parameters={"scale": 1e9}),
        Request(tier="high_risk", stage=99, tag="?", kind=kind, context="c"),
    ):
        found = fallback(request)
        assert found.conservative
        assert found.blueprint.blueprint_id in CONSERVATIVE_POOL
        assert kind is None or kind in found.blueprint.kinds


def test_the_bands_have_their_lower_edges():
    """R-KARN-19."""
    names = [leyline.HazardBand.Name(band(score)) for score in (0.0, 0.29, 0.30, 0.59, 0.60, 0.84, 0.85, 1.0)]
    assert [name.removeprefix("HAZARD_BAND_") for name in names] == (
        ["LOW"] * 2 + ["MEDIUM"] * 2 + ["HIGH"] * 2 + ["CRITICAL"] * 2
    )


def test_sheets_of_the_whole_catalogue():
    sheets = {name: risk_sheet(descriptor(b), issued_at_ns=5) for name, b in CATALOGUE.items()}
    counts = [sum(sheet.hazard_band == level for sheet in sheets.values()) for level in range(1, 5)]
    assert counts == [9, 26, 2, 13]
    assert all(sheet.ByteSize() < 4096 for sheet in sheets.values())
    assert sheets["BP043"].risk_score == 1.0
    assert sheets["BP043"].handling_class == leyline.HANDLING_CLASS_QUARANTINE
    assert sheets["BP036"].handling_class == leyline.HANDLING_CLASS_RESTRICTED
    assert sheets["BP009"].issued_at.ToNanoseconds() == 5


def test_what_a_sheet_asks_for():
    """R-KARN-20: critical or quarantine pauses, high downgrades, the rest is a note, and no sheet changes nothing."""
    asked = {name: consequence(risk_sheet(descriptor(b), issued_at_ns=0)) for name, b in CATALOGUE.items()}
    assert asked["BP001"] == asked["BP035"] == "note"
    assert asked["BP036"] == asked["BP037"] == "downgrade"
    assert {asked[f"BP{number:03d}"] for number in range(38, 51)} == {"pause"}
    assert consequence(None) == "none"
    assert consequence(leyline.BSDS(handling_class=leyline.HANDLING_CLASS_QUARANTINE)) == "pause"


def test_a_sheet_is_made_without_torch():
    code = "import esper.karn.risk_sheet, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
