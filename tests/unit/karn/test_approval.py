"""Who may use which blueprint: R-KARN-7 to 9."""

from __future__ import annotations

import pytest
import torch

from contracts.leyline.v1.event_pb2 import BlueprintApproved, SiteDescription
from esper.errors import InvalidInput
from esper.karn.approval import UNCLEARED, Approval, Clearance, approve, evolve_approvals
from esper.karn.catalogue import build, options
from esper.karn.table import CATALOGUE, find

SITE = SiteDescription(site="trunk.0", seed_id="s1", shape_kind="vector", shape=[4])
EVERYTHING = Clearance({name: Approval("a tester", "tests") for name in CATALOGUE}, drill=True)


@pytest.mark.parametrize("blueprint_id", [f"BP{number:03d}" for number in range(36, 43) if number != 37])
def test_an_experimental_blueprint_needs_its_own_approval(blueprint_id):
    """R-KARN-9: for being offered and for being built. BP037 serves no vector."""
    others = Clearance({name: Approval("ada", "tests") for name in CATALOGUE if name != blueprint_id}, drill=True)
    for clearance in (UNCLEARED, others):
        with pytest.raises(InvalidInput, match=f"{blueprint_id} .* is experimental and not approved"):
            options(SITE, pool=[blueprint_id], clearance=clearance)
        with pytest.raises(InvalidInput, match="not approved"):
            build(blueprint_id, SITE, {}, torch.Generator(), clearance=clearance)
    own = Clearance({blueprint_id: Approval("ada", "tests")})

    assert [option.blueprint_id for option in options(SITE, pool=[blueprint_id], clearance=own)] == [blueprint_id]
    assert build(blueprint_id, SITE, {}, torch.Generator(), clearance=own)(torch.ones(2, 4)).shape == (2, 4)


def test_what_is_refused_says_why_and_the_way_out():
    experimental, stressor = find("BP039"), find("BP043")

    assert [UNCLEARED.refusal(row) != "" for row in CATALOGUE.values()] == [
        row.tier != "safe" for row in CATALOGUE.values()
    ]
    assert not any(EVERYTHING.refusal(row) for row in CATALOGUE.values())
    assert UNCLEARED.refusal(experimental) == (
        "BP039 neural_ode_block is experimental and not approved; see `esper blueprints approve --help`"
    )
    assert Clearance(EVERYTHING.approvals).refusal(stressor) == (
        "BP043 exploding_gradient misbehaves on purpose and runs inside a quarantine drill only"
    )


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
