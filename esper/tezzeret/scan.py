"""Which kernels a set of sites could need: the requests to make at the start (R-TEZ-1).

Asking for what is compiled already costs one event: a job's id is derived from what it makes, so nothing is made twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from contracts.leyline.v1.event_pb2 import CompileRequested
from esper.karn.blueprint import Blueprint, SiteShape, Tier
from esper.karn.table import CATALOGUE
from esper.tezzeret.jobs import request
from esper.tezzeret.pipelines import DEFAULT

SAFE: Final[tuple[Tier, ...]] = ("safe",)


def requests(
    shapes: Iterable[SiteShape],
    *,
    tiers: Collection[Tier] = SAFE,
    approved: Collection[str] = (),
    pipeline: str = DEFAULT,
    catalogue: Iterable[Blueprint] | None = None,
) -> list[CompileRequested]:
    """One request for every permitted template and every distinct shape that it serves, at its default settings.

    `catalogue` are the templates to look at, by default all.
    """
    wanted = list(dict.fromkeys(shapes))
    return [
        request(blueprint.blueprint_id, site.kind, site.shape, blueprint.resolve({}), pipeline)
        for blueprint in (CATALOGUE.values() if catalogue is None else catalogue)
        if blueprint.tier in tiers and not refusal(blueprint, approved=blueprint.blueprint_id in approved)
        for site in wanted
        if site.kind in blueprint.kinds
    ]


def refusal(blueprint: Blueprint, *, approved: bool) -> str:
    """Why a template may not be compiled, in one line; empty where it may (R-TEZ-3)."""
    if blueprint.widens:
        return f"{blueprint.blueprint_id} {blueprint.name} widens a layer of the host: there is nothing to compile"
    if blueprint.quarantine_only:
        return f"{blueprint.blueprint_id} {blueprint.name} is for quarantine drills only and is never compiled"
    if blueprint.approval_required and not approved:
        return f"{blueprint.blueprint_id} {blueprint.name} needs an approval that nobody has recorded"
    return ""
