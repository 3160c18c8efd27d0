"""What is in the catalogue: found by id, tier, stage, tag or site shape.

Finding a template says nothing about whether it may be used: see `esper.karn.selection`.
"""

from __future__ import annotations

from esper.karn.blueprint import Blueprint, ShapeKind, Tier
from esper.karn.catalogue import CATALOGUE


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
