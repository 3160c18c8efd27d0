"""What is in the catalogue: found by id, tier, stage, tag or site shape, and told as Leyline's messages.

Finding a template says nothing about whether it may be used: see `esper.karn.selection`. Every message is made anew, so
a caller may edit it (R-KARN-17).
"""

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
from esper.karn.blueprint import Blueprint, ShapeKind, Tier
from esper.karn.catalogue import CATALOGUE

TIERS: Final[dict[Tier, BlueprintTier]] = {
    "safe": BLUEPRINT_TIER_SAFE,
    "experimental": BLUEPRINT_TIER_EXPERIMENTAL,
    "high_risk": BLUEPRINT_TIER_HIGH_RISK,
}


def search(
    *,
    blueprint_id: str | None = None,
    tier: Tier | None = None,
    stage: int | None = None,
    tag: str | None = None,
    kind: ShapeKind | None = None,
) -> list[Blueprint]:
    """The templates that answer every question asked, in order of ids; all 50 where none is asked."""
    return [
        blueprint
        for blueprint in CATALOGUE.values()
        if blueprint_id in (None, blueprint.blueprint_id)
        and tier in (None, blueprint.tier)
        and stage in (None, blueprint.stage)
        and (tag is None or tag in blueprint.tags)
        and (kind is None or kind in blueprint.kinds)
    ]


def tags() -> list[str]:
    """Every tag that a template has, in alphabetical order."""
    return sorted({tag for blueprint in CATALOGUE.values() for tag in blueprint.tags})


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
