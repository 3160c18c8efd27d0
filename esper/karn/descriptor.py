"""A template's facts told as Leyline's messages; every message is made anew, so a caller may edit it (R-KARN-17)."""

from __future__ import annotations

from typing import Final

from contracts.leyline.v1.event_pb2 import BlueprintRegistered
from contracts.leyline.v1.leyline_pb2 import (
    BLUEPRINT_TIER_EXPERIMENTAL,
    BLUEPRINT_TIER_HIGH_RISK,
    BLUEPRINT_TIER_SAFE,
    BlueprintDescriptor,
    BlueprintParameterBounds,
    BlueprintTier,
)
from esper.karn.facts import Facts, Tier

TIERS: Final[dict[Tier, BlueprintTier]] = {
    "safe": BLUEPRINT_TIER_SAFE,
    "experimental": BLUEPRINT_TIER_EXPERIMENTAL,
    "high_risk": BLUEPRINT_TIER_HIGH_RISK,
}


def descriptor(blueprint: Facts) -> BlueprintDescriptor:
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


def registered(blueprint: Facts) -> BlueprintRegistered:
    """The event that puts a template on the log."""
    return BlueprintRegistered(descriptor=descriptor(blueprint), shape_kinds=blueprint.kinds, tags=blueprint.tags)
