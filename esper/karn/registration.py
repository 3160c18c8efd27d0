"""The catalogue as it stands on the log: a descriptor and a risk data sheet for each blueprint, each published once.

Without torch, so that the worker can publish them. Every message is made anew, so a caller may edit it (R-KARN-17).
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import BlueprintRegistered
from contracts.leyline.v1.leyline_pb2 import (
    BLUEPRINT_TIER_EXPERIMENTAL,
    BLUEPRINT_TIER_HIGH_RISK,
    BLUEPRINT_TIER_SAFE,
    BlueprintDescriptor,
    BlueprintParameterBounds,
    BlueprintTier,
    BSDSIssued,
)
from esper.karn.blueprint import Blueprint, Tier
from esper.karn.risk_sheet import risk_sheet
from esper.karn.table import CATALOGUE
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event

PRODUCER: Final = "karn"


def registration(now_ns: int) -> list[Event]:
    """Two events a template: its facts and its risk data sheet.

    An event's id is derived from what it says, so what was said before is known by its id, and a template that changes
    is registered anew.
    """
    events = []
    for body in map(registered, CATALOGUE.values()):
        sheet = BSDSIssued(bsds=risk_sheet(body.descriptor, issued_at_ns=now_ns))
        said = BSDSIssued(bsds=sheet.bsds)
        said.bsds.ClearField("issued_at")
        events += [_event(body, body, now_ns), _event(sheet, said, now_ns)]
    return events


def _event(body: Any, said: Any, now_ns: int) -> Event:
    content = hashlib.sha256(said.SerializeToString(deterministic=True)).digest()
    event_id = ids.derived_id(content, f"karn.{said.DESCRIPTOR.name}")
    return new_event(body, event_id=event_id, run_id="", producer=PRODUCER, recorded_at_ns=now_ns)


TIERS: Final[dict[Tier, BlueprintTier]] = {
    "safe": BLUEPRINT_TIER_SAFE,
    "experimental": BLUEPRINT_TIER_EXPERIMENTAL,
    "high_risk": BLUEPRINT_TIER_HIGH_RISK,
}


def descriptor(blueprint: Blueprint) -> BlueprintDescriptor:
    """The facts of a template as a message."""
    return BlueprintDescriptor(
        blueprint_id=blueprint.blueprint_id,
        name=blueprint.name,
        tier=TIERS[blueprint.tier],
        allowed_parameters={
            setting.name: BlueprintParameterBounds(min_value=setting.minimum, max_value=setting.maximum)
            for setting in blueprint.settings
        },
        risk=blueprint.risk,
        stage=blueprint.stage,
        quarantine_only=blueprint.quarantine_only,
        approval_required=blueprint.approval_required,
        description=blueprint.description,
    )


def registered(blueprint: Blueprint) -> BlueprintRegistered:
    """The event that puts a template on the log."""
    return BlueprintRegistered(descriptor=descriptor(blueprint), shape_kinds=blueprint.kinds, tags=blueprint.tags)
