"""`esper blueprints show`: one blueprint in full. Facts and history need no torch, the drawing of its module does."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.cli.blueprints.catalogue import (
    OUTCOME_HEADERS,
    USUAL,
    WAY_TO_APPROVAL,
    Row,
    facts_json,
    known_of,
    outcome_cells,
    parse_shape,
    setting_text,
    shape_text,
)
from esper.cli.output import BOLD, DIM, colours_wanted, say, say_json, styled, table
from esper.errors import InvalidInput
from esper.karn.blueprint import Blueprint, SiteShape, WidthShape
from esper.karn.registration import descriptor
from esper.karn.risk_sheet import ADVICE, consequence, risk_sheet
from esper.karn.table import find, find_by_name, formula, with_names
from projections import blueprint_queries

if TYPE_CHECKING:
    from rich.tree import Tree
    from torch import nn


PIPED_COLUMNS: Final = 120
USUAL_PLACE: Final = WidthShape(
    units=16, incoming=(16,), outgoing=(16, 1), bias=True, parameters_per_unit=33, flops_per_unit=64
)
"""A place where a host can become wider: between two layers of 16 units."""
USUAL_HEADS: Final = replace(USUAL_PLACE, group=4, sections=3, parameters_per_unit=67, flops_per_unit=132)
"""Attention of four heads over 16 features, of one token: what its products cost depends on how many there are."""
ARTIFACT_HEADERS: Final = (
    *("version", "site", "settings", "serves", "eager", "compiled", "p50", "p95", "compiling", "attached", "state"),
)


def show_command(data_dir: Path, word: str, shape: str | None, *, as_json: bool) -> None:
    """Everything about one blueprint."""
    blueprint = find_by_name(word)
    asked = parse_shape(shape) if shape is not None else None
    if asked is not None and asked.kind not in blueprint.kinds:
        raise InvalidInput(f"{blueprint.full_name} does not serve a {asked.kind} site; it serves {blueprint.served}")
    name = blueprint.blueprint_id
    with known_of(data_dir) as history:
        approval = blueprint_queries.approvals(history).get(name)
        artifacts = blueprint_queries.artifacts(history, name).get(name, [])
        outcomes = blueprint_queries.outcomes(history, name).get(name, [])
    drawing = draw(name, asked or _site(blueprint, [*artifacts, *outcomes]))
    if as_json:
        say_json(_json(blueprint, approval, artifacts, outcomes, drawing))
        return
    _say_facts(blueprint, approval)
    _say_drawing(blueprint, drawing)
    _say_artifacts(artifacts)
    _say_outcomes(outcomes)


def _site(blueprint: Blueprint, rows: Sequence[Row]) -> SiteShape | WidthShape:
    """Where it is or was at home in this folder, else a usual site of the first kind that it serves."""
    if blueprint.widens:
        return USUAL_HEADS if blueprint.sections > 1 else USUAL_PLACE
    for row in rows:
        if row["shape_kind"] in blueprint.kinds:
            return SiteShape(row["shape_kind"], tuple(row["shape"]))
    kind = blueprint.kinds[0]
    return SiteShape(kind, USUAL[kind])


def sheet_json(blueprint: Blueprint) -> Row:
    """The risk data sheet of a blueprint by the words of its enums."""
    sheet = risk_sheet(descriptor(blueprint), issued_at_ns=0)
    return {
        "risk_score": round(sheet.risk_score, 4),
        "hazard_band": leyline.HazardBand.Name(sheet.hazard_band).removeprefix("HAZARD_BAND_"),
        "handling_class": leyline.HandlingClass.Name(sheet.handling_class).removeprefix("HANDLING_CLASS_"),
        "asks_for": ADVICE[consequence(sheet)],
    }


def _json(
    blueprint: Blueprint, approval: Row | None, artifacts: list[Row], outcomes: list[Row], drawing: Drawing
) -> Row:
    return {
        **facts_json(blueprint, approval),
        "formula": formula(blueprint),
        "risk_sheet": sheet_json(blueprint),
        "site": {"kind": drawing.kind, "shape": list(drawing.shape)},
        "cost": {"parameters": drawing.parameters, "flops_per_sample": drawing.flops_per_sample},
        "residual": drawing.residual,
        "module": drawing.root.to_json(),
        "stored": artifacts,
        "outcomes": outcomes,
    }


def _say_facts(blueprint: Blueprint, approval: Row | None) -> None:
    sheet = sheet_json(blueprint)
    say(styled(f"{blueprint.full_name}: {blueprint.description}", BOLD))
    say()
    say(f"tier        {blueprint.tier.replace('_', '-')}, stage {blueprint.stage}, {' '.join(blueprint.tags)}")
    say(f"serves      {blueprint.served}")
    say(f"parameters  {', '.join(setting_text(setting) for setting in blueprint.settings) or 'none'}")
    band, handling = sheet["hazard_band"].lower(), sheet["handling_class"].lower()
    advice = f": {sheet['asks_for']}" if sheet["asks_for"] else ""
    say(f"risk        {blueprint.risk:.1f}; data sheet {sheet['risk_score']:.2f} {band}, {handling}{advice}")
    say(f"approval    {approval_text(blueprint, approval)}")
    _say_part("formula and source")
    say(with_names(formula(blueprint)))


def approval_text(blueprint: Blueprint, approval: Row | None) -> str:
    """Who approved it and why, or what to do."""
    said = "" if approval is None else f"{approval['said_by']} on {approval['recorded_at']:%Y-%m-%d}: {approval['why']}"
    drill = " (and a quarantine drill, the only place where it runs)" if blueprint.quarantine_only else ""
    if not blueprint.approval_required:
        return "not needed"
    if approval is not None and approval["approved"]:
        return f"by {said}{drill}"
    withdrawn = f"withdrawn by {said}; " if approval is not None else ""
    return f"{withdrawn}needed{drill}: {WAY_TO_APPROVAL.format(blueprint.blueprint_id)}"


def _say_drawing(blueprint: Blueprint, drawing: Drawing) -> None:
    from rich.console import Console  # noqa: PLC0415 - only here

    _say_part("module")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_COLUMNS
    console = Console(file=sys.stdout, width=width, no_color=not colours_wanted(), highlight=False)
    console.print(tree_of(drawing, blueprint.full_name))
    begins = "begins as the identity" if drawing.residual else "cannot begin as the identity and is blended as it is"
    say(f"{drawing.parameters:,} weights, {drawing.flops_per_sample:,} FLOPs forward per sample; {begins}")


def _say_artifacts(artifacts: Sequence[Row]) -> None:
    _say_part("stored kernels and what was measured")
    if not artifacts:
        say("none; `esper blueprints compile` makes them")
        return
    rows = [
        (
            row["version"],
            f"{row['shape_kind']} {shape_text(row['shape'])}",
            row["parameters"].strip("{}").replace('"', "") or "-",
            row["form"],
            microseconds(row["eager_us"]),
            microseconds(row["compiled_us"]),
            f"{row['prewarm_p50_ms']:.3f} ms",
            f"{row['prewarm_p95_ms']:.3f} ms",
            f"{row['compile_ms'] / 1e3:.1f} s" if row["compiled_us"] else "-",
            row["attachments"],
            row["state"],
        )
        for row in artifacts
    ]
    say(table(ARTIFACT_HEADERS, rows, right=(0, 4, 5, 6, 7, 8, 9)))
    say(styled("processor time of a training pass (forward and backward) at batch 64; the faster form serves", DIM))


def microseconds(value: float | None) -> str:
    """A time of a pass for a table."""
    return "-" if not value else f"{value:,.0f} µs"


def _say_outcomes(outcomes: Sequence[Row]) -> None:
    _say_part("what became of it")
    if not outcomes:
        say("it has not grown in this data folder yet")
        return
    say(table(OUTCOME_HEADERS[2:], [outcome_cells(row) for row in outcomes], right=(1, 2, 3, 4, 5)))
    say(styled("means of the probe loss with their 95 % interval; a gain above zero is what the control lacks", DIM))


def _say_part(title: str) -> None:
    say()
    say(styled(title, DIM))


@dataclass(frozen=True, slots=True)
class Part:
    """One module: `parameters` are all of it and below, `own` are tensors of its own with their shapes.

    `output` is the shape of one sample that leaves it, empty where it does not run by itself or gives no tensor.
    """

    name: str
    kind: str
    parameters: int
    own: tuple[tuple[str, tuple[int, ...]], ...]
    output: tuple[int, ...]
    parts: tuple[Part, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {
            "name": self.name,
            "type": self.kind,
            "parameters": self.parameters,
            "tensors": {name: list(shape) for name, shape in self.own},
            "output": list(self.output),
            "parts": [part.to_json() for part in self.parts],
        }


@dataclass(frozen=True, slots=True)
class Drawing:
    """A blueprint at one site shape with its default settings, and what it costs there."""

    site: SiteShape | WidthShape
    root: Part
    parameters: int
    flops_per_sample: int
    residual: bool

    @property
    def kind(self) -> str:
        """The shape kind of the site; `width` for a place where the host becomes wider."""
        return "width" if isinstance(self.site, WidthShape) else self.site.kind

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample's activation; the units of a layer that becomes wider."""
        return (self.site.units,) if isinstance(self.site, WidthShape) else self.site.shape


def draw(blueprint_id: str, site: SiteShape | WidthShape) -> Drawing:
    """Look at a blueprint's module; nothing of it is trained or kept.

    Raises InvalidInput for a site shape that the blueprint does not serve.
    """
    from esper.karn.catalogue import draft, measure  # noqa: PLC0415 - torch, once everything cheap is right

    blueprint = find(blueprint_id)
    module = draft(blueprint, site, blueprint.resolve({}))
    outputs = {} if isinstance(site, WidthShape) else _outputs(module, site)
    cost = measure(blueprint_id, site)
    root = _part("", module, outputs)
    return Drawing(site, root, cost.parameters, cost.flops_per_sample, cost.residual)


def tree_of(drawing: Drawing, title: str) -> Tree:
    """The drawing for a terminal."""
    from rich.text import Text  # noqa: PLC0415 - only people see it
    from rich.tree import Tree  # noqa: PLC0415

    tree = Tree(Text(f"{title} at {drawing.kind} {shape_text(drawing.shape)}", style="bold"))
    _grow(tree, drawing.root)
    return tree


def _grow(tree: Tree, part: Part) -> None:
    from rich.text import Text  # noqa: PLC0415

    tensors = ", ".join(f"{name} {shape_text(shape)}" for name, shape in part.own)
    words = [
        Text(f"{part.name}: " if part.name else ""),
        Text(part.kind, style="cyan"),
        Text(f"  {tensors}" if tensors else "", style="dim"),
        Text(f"  {part.parameters:,} weights" if part.parts and part.parameters else ""),
        Text(f"  → {shape_text(part.output)}" if part.output else "", style="green"),
    ]
    branch = tree.add(Text.assemble(*words))
    for each in part.parts:
        _grow(branch, each)


def _part(name: str, module: nn.Module, outputs: dict[nn.Module, tuple[int, ...]]) -> Part:
    return Part(
        name=name,
        kind=type(module).__name__,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        own=tuple((key, tuple(each.shape)) for key, each in module.named_parameters(recurse=False)),
        output=outputs.get(module, ()),
        parts=tuple(_part(key, child, outputs) for key, child in module.named_children()),
    )


def _outputs(module: nn.Module, site: SiteShape) -> dict[nn.Module, tuple[int, ...]]:
    """The shape, without the batch, of what each submodule gave last in one forward pass."""
    import torch  # noqa: PLC0415 - takes two seconds

    seen: dict[nn.Module, tuple[int, ...]] = {}

    def see(which: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.dim() > 1:
            seen[which] = tuple(output.shape[1:])

    handles = [each.register_forward_hook(see) for each in module.modules()]
    with torch.no_grad():
        module(torch.empty((2, *site.shape), device="meta"))
    for handle in handles:
        handle.remove()
    return seen
