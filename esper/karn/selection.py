"""Which template a request gets: the one it names, or one of those that it describes, chosen by its context.

The choice is a pure function of request, catalogue and clearance. A context's text is hashed (SHA-256, first four
bytes, big-endian, modulo the number of templates in order of ids), so the same text gets the same template in every
process.
Requirements R-KARN-6 to 11.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from esper.errors import InvalidInput
from esper.karn.approval import Clearance
from esper.karn.blueprint import Blueprint, Settings, ShapeKind, Tier
from esper.karn.catalogue import CATALOGUE, CONSERVATIVE_POOL, find
from esper.karn.queries import search


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody wants to grow. Without an id and a tier the safe tier is meant.

    `parameters` must be complete where an id is given; otherwise what is left out takes its default, because the caller
    cannot know which settings the chosen template has.
    """

    blueprint_id: str = ""
    tier: Tier | None = None
    stage: int | None = None
    tag: str | None = None
    kind: ShapeKind | None = None
    parameters: Settings = field(default_factory=lambda: MappingProxyType({}))
    context: str | None = None
    conservative: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """What a request gets: a template and all of its settings. `conservative` says that it is of that pool by rule."""

    blueprint: Blueprint
    settings: Mapping[str, float]
    conservative: bool = False


def select(request: Request, clearance: Clearance) -> Selection:
    """What the request gets.

    Raises InvalidInput for a template that does not exist, is not covered by the clearance or does not serve the shape,
    for a description that nothing fits, and for settings that are missing, unknown or out of bounds.
    """
    if request.blueprint_id:
        return _named(request, clearance)
    found = search(tier=request.tier or "safe", stage=request.stage, tag=request.tag, kind=request.kind)
    if request.conservative:
        found = [blueprint for blueprint in found if blueprint.blueprint_id in CONSERVATIVE_POOL]
    cleared = [blueprint for blueprint in found if not clearance.refusal(blueprint)]
    if not cleared:
        raise InvalidInput(clearance.refusal(found[0]) if found else f"no template is {_described(request)}")
    blueprint = by_context(cleared, request.context)
    return Selection(blueprint, blueprint.resolve(request.parameters), request.conservative)


def fallback(request: Request) -> Selection:
    """A template of the conservative pool at its defaults, whatever the request says; never raises (R-KARN-13).

    It serves the site's shape where the request names one.
    """
    pool = [CATALOGUE[blueprint_id] for blueprint_id in CONSERVATIVE_POOL]
    serving = [blueprint for blueprint in pool if request.kind in (None, *blueprint.kinds)]
    blueprint = by_context(serving or pool, request.context)
    return Selection(blueprint, blueprint.resolve({}), conservative=True)


def by_context(blueprints: Sequence[Blueprint], context: str | None) -> Blueprint:
    """The first of the templates in order of ids, or the one that the context's hash points at."""
    ordered = sorted(blueprints, key=lambda blueprint: blueprint.blueprint_id)
    if context is None:
        return ordered[0]
    digest = hashlib.sha256(
        context.encode("utf-8", "surrogatepass")
    ).digest()  # any text has a place, even a broken one
    return ordered[int.from_bytes(digest[:4], "big") % len(ordered)]


def _named(request: Request, clearance: Clearance) -> Selection:
    blueprint = find(request.blueprint_id)
    clearance.check(blueprint)
    if request.conservative and blueprint.blueprint_id not in CONSERVATIVE_POOL:
        raise InvalidInput(f"{blueprint.blueprint_id} is not conservative; {', '.join(CONSERVATIVE_POOL)} are")
    if request.kind not in (None, *blueprint.kinds):
        raise InvalidInput(f"{blueprint.blueprint_id} does not serve a {request.kind} site")
    return Selection(blueprint, blueprint.require(request.parameters), request.conservative)


def _described(request: Request) -> str:
    asked = {
        "tier": request.tier or "safe",
        "stage": request.stage,
        "tag": request.tag,
        "site shape": request.kind,
        "pool": "conservative" if request.conservative else None,
    }
    return ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
