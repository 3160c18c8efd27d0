"""What can grow at a site: the pools of blueprints, what each would cost there, and how its module is built.

A caller without a clearance reaches the safe blueprints, and a site offers `DEFAULT_POOL` of them unless asked for
others. Cost is measured on the module itself, built on PyTorch's meta device: shapes are computed, nothing is
allocated.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast, get_args

import torch
from torch.utils.flop_counter import FlopCounterMode

from contracts.leyline.v1.event_pb2 import BlueprintOption, SiteDescription
from contracts.leyline.v1.leyline_pb2 import HANDLING_CLASS_STANDARD
from esper.errors import InvalidInput
from esper.karn.approval import UNCLEARED, Clearance
from esper.karn.blueprint import Blueprint, Settings, ShapeKind, SiteShape, WidthShape
from esper.karn.dossier import Dossier
from esper.karn.layers import Make, SeedModule, initialise
from esper.karn.registration import TIERS, descriptor
from esper.karn.risk_sheet import risk_sheet
from esper.karn.table import CATALOGUE, find

_AXES: Final[dict[ShapeKind, int]] = {"vector": 1, "image": 3, "token": 2}
_COST_BATCH: Final = 2
SAFE_POOL: Final = tuple(blueprint_id for blueprint_id, blueprint in CATALOGUE.items() if blueprint.tier == "safe")
"""The templates that need no clearance."""

DEFAULT_POOL: Final = (
    *("BP001", "BP002", "BP003", "BP005", "BP008", "BP009", "BP011", "BP012", "BP013", "BP014"),
    *("BP015", "BP016", "BP018", "BP020", "BP021", "BP022", "BP023"),
    *("BP051", "BP052", "BP060", "BP062"),
)
"""What a site offers by default: one or two of each family that has shown what it does, cheap ones first.

Every option travels in every state packet (22 bytes each) and is an action that a policy must weigh, so the pool is
small. Merits were measured within it (docs/log.md); a run that wants others names them.
"""

POOLS: Final = {"default": DEFAULT_POOL, "safe": SAFE_POOL}
"""The pools that have a name."""


def pool(names: Collection[str]) -> tuple[str, ...]:
    """The ids that these names mean, in order: of pools (`default`, `safe`) and of templates, in any mix.

    Raises InvalidInput for a name that is neither, and where there is none.
    """
    if not names:
        raise InvalidInput(f"a pool needs at least one blueprint; name {', '.join(POOLS)} or ids such as BP009")
    ids = {each for name in names for each in POOLS.get(name) or (find(name).blueprint_id,)}
    return tuple(sorted(ids))


def options(
    site: SiteDescription, *, pool: Collection[str] = DEFAULT_POOL, clearance: Clearance = UNCLEARED
) -> list[BlueprintOption]:
    """What could grow at `site`, in order of ids, with trainable parameters and forward FLOPs at default settings.

    Of `pool`, those that serve the site's shape, or those that widen where the host itself can become wider. Raises
    InvalidInput for a template that does not exist or that the clearance does not cover: experimental ones and
    stressors are never offered by default.
    """
    shape = width_shape(site) if site.HasField("width") else site_shape(site)
    wanted = [find(blueprint_id) for blueprint_id in sorted(set(pool))]
    for blueprint in wanted:
        clearance.check(blueprint)
    return [
        BlueprintOption(
            blueprint_id=blueprint.blueprint_id,
            parameters=cost.parameters,
            flops_per_sample=cost.flops_per_sample,
            risk=blueprint.risk,
            residual=cost.residual,
        )
        for blueprint in wanted
        if blueprint.serves(shape)
        for cost in [measure(blueprint.blueprint_id, shape)]
    ]


def build(
    blueprint_id: str,
    site: SiteDescription,
    parameters: Settings,
    generator: torch.Generator,
    *,
    clearance: Clearance = UNCLEARED,
) -> SeedModule:
    """The module of a template for `site`, on the CPU, every parameter drawn from `generator` (a CPU generator).

    Settings that `parameters` leaves out take their defaults (`find(blueprint_id).resolve(parameters)` lists them all).
    The global random state is neither read nor moved. Raises InvalidInput for an unknown template, one that the
    clearance does not cover, a site shape that it does not serve, and a setting that it does not have or that is out
    of bounds.
    """
    blueprint = find(blueprint_id)
    clearance.check(blueprint)
    shape = width_shape(site) if site.HasField("width") else site_shape(site)
    module = draft(blueprint, shape, blueprint.resolve(parameters))
    module.to_empty(device="cpu")
    initialise(module, generator)
    return module


def site_shape(site: SiteDescription) -> SiteShape:
    """The checked shape of a site; raises InvalidInput where it is none that a seed can grow at."""
    if site.shape_kind not in get_args(ShapeKind):
        raise InvalidInput(f"site {site.site!r} has shape kind {site.shape_kind!r}; it must be vector, image or token")
    kind = cast("ShapeKind", site.shape_kind)
    shape = tuple(site.shape)
    if len(shape) != _AXES[kind] or min(shape) < 1:
        raise InvalidInput(f"site {site.site!r} has shape {shape}; {kind} means {_AXES[kind]} sizes of at least 1")
    return SiteShape(kind, shape)


def width_shape(site: SiteDescription) -> WidthShape:
    """The place of a site where the host can become wider."""
    place = site.width
    return WidthShape(
        units=place.units,
        incoming=tuple(place.incoming),
        outgoing=tuple(place.outgoing),
        bias=place.bias,
        group=max(1, place.group),
        running=tuple(place.running),
        parameters_per_unit=place.parameters_per_unit,
        flops_per_unit=place.flops_per_unit,
        sections=max(1, place.sections),
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """What a module costs: trainable parameters, and FLOPs of one sample's forward pass."""

    parameters: int
    flops_per_sample: int
    residual: bool


@lru_cache(maxsize=1024)
def measure(blueprint_id: str, site: SiteShape | WidthShape) -> Cost:
    """The cost of a template at its default settings, measured on a module that holds no memory.

    FLOPs are those of matrix products, convolutions and attention, as PyTorch counts them: a multiply-add is two, and
    what works element by element is none. A wider layer costs what its units cost at the place. Raises InvalidInput
    for a template that does not exist or serve the shape.
    """
    blueprint = find(blueprint_id)
    settings = blueprint.resolve({})
    module = draft(blueprint, site, settings)
    if isinstance(site, WidthShape):
        units = len(module.get_parameter("producer_weight")) // site.sections
        return Cost(sum(each.numel() for each in module.parameters()), units * site.flops_per_unit, residual=False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.empty((_COST_BATCH, *site.shape), device="meta"))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Cost(parameters, counter.get_total_flops() // _COST_BATCH, module.residual)


def draft(blueprint: Blueprint, site: SiteShape | WidthShape, settings: Settings) -> SeedModule:
    """The module of a template without its numbers, on the meta device: to be looked at, not used.

    Raises InvalidInput for a site shape that the template does not serve.
    """
    if not blueprint.serves(site):
        if isinstance(site, WidthShape) or blueprint.widens:
            raise InvalidInput(f"{blueprint.blueprint_id} {blueprint.name} serves {blueprint.served} alone")
        raise InvalidInput(
            f"{blueprint.blueprint_id} {blueprint.name} does not serve a {site.kind} site; it serves {blueprint.served}"
        )
    family = importlib.import_module(f"esper.karn.templates.{blueprint.family}")
    make: Make[Any] = getattr(family, blueprint.name)
    with torch.device("meta"):
        return make(site, settings)


def offer(
    site: SiteDescription,
    *,
    pool: Collection[str],
    dossier: Dossier,
    clearance: Clearance,
    sheet_risk: bool = True,
) -> list[BlueprintOption]:
    """What could grow at `site`, in order of ids; what was issued as a risk data sheet replaces Karn's own.

    With `sheet_risk` its score also stands in the place of the catalogue's risk (R-TAM-30).

    Raises InvalidInput as `options` does.
    """
    offered = options(site, pool=pool, clearance=clearance)
    sheets = {sheet.blueprint_id: sheet.message() for sheet in dossier.sheets}
    outcomes = {each.blueprint_id: each for each in dossier.outcomes if each.shape_kind == site.shape_kind}
    for option in offered:
        blueprint = find(option.blueprint_id)
        option.tier = TIERS[blueprint.tier]
        option.stage = blueprint.stage
        sheet = sheets.get(option.blueprint_id) or risk_sheet(descriptor(blueprint), issued_at_ns=0)
        if sheet_risk and option.blueprint_id in sheets:
            option.risk = sheet.risk_score  # what was issued for it counts for more than what the catalogue says
        option.hazard_band = sheet.hazard_band
        if sheet.handling_class != HANDLING_CLASS_STANDARD:  # two bytes an option, in every packet
            option.handling_class = sheet.handling_class
        if option.blueprint_id in outcomes:
            option.outcomes.CopyFrom(outcomes[option.blueprint_id].message())
    return offered
