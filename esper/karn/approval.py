"""Who may use what: safe templates anybody, experimental ones with a recorded approval, stressors in a drill besides.

An approval is an event, `BlueprintApproved`, that says who and why; `evolve_approvals` folds those events. A caller
shows what it holds as a `Clearance`; without one it reaches safe templates only. Requirements R-KARN-5, 7, 8, 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from contracts.leyline.v1.event_pb2 import BlueprintApproved
from esper.errors import InvalidInput
from esper.karn.blueprint import Blueprint


@dataclass(frozen=True, slots=True)
class Approval:
    """Who let a template be used, and why."""

    by: str
    why: str


Approvals = Mapping[str, Approval]
"""What is approved now, by blueprint id."""


@dataclass(frozen=True, slots=True)
class Clearance:
    """What its holder may use beyond the safe templates.

    `drill` says that this is a quarantine drill: a run for the controller's sake, whose network is thrown away. Nothing
    in Esper sets it but a drill.
    """

    approvals: Approvals = field(default_factory=lambda: MappingProxyType({}))
    drill: bool = False

    def refusal(self, blueprint: Blueprint) -> str:
        """Why its holder may not use that template, in one line with the way out; empty where it may."""
        named = f"{blueprint.blueprint_id} {blueprint.name}"
        if blueprint.quarantine_only and not self.drill:
            return f"{named} misbehaves on purpose and runs inside a quarantine drill only"
        if blueprint.approval_required and blueprint.blueprint_id not in self.approvals:
            return f"{named} is {blueprint.tier} and not approved; see `esper blueprints approve --help`"
        return ""

    def check(self, blueprint: Blueprint) -> None:
        """Raise InvalidInput where its holder may not use that template."""
        if refusal := self.refusal(blueprint):
            raise InvalidInput(refusal)


UNCLEARED: Final = Clearance()
"""What everybody holds: safe templates only."""


def approve(blueprint: Blueprint, *, by: str, why: str, approved: bool = True) -> BlueprintApproved:
    """The event that approves a template, or takes its approval back.

    Raises InvalidInput where nobody signs, no reason is given, or the template needs no approval.
    """
    if not blueprint.approval_required:
        raise InvalidInput(f"{blueprint.blueprint_id} {blueprint.name} is safe and needs no approval")
    if not by.strip() or not why.strip():
        raise InvalidInput(f"an approval of {blueprint.blueprint_id} must say by whom ({by!r}) and why ({why!r})")
    return BlueprintApproved(blueprint_id=blueprint.blueprint_id, approved=approved, by=by, why=why)


def evolve_approvals(approvals: Approvals, event: BlueprintApproved) -> Approvals:
    """What is approved after the event. One that does not say who and why approves nothing."""
    after = {blueprint_id: kept for blueprint_id, kept in approvals.items() if blueprint_id != event.blueprint_id}
    if event.approved and event.by.strip() and event.why.strip():
        after[event.blueprint_id] = Approval(event.by, event.why)
    return MappingProxyType(after)
