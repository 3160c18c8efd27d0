"""A blueprint's module as a tree: every submodule with its type, its weights and the shape that comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from esper.cli.blueprints.shapes import shape_text
from esper.karn.blueprint import SiteShape
from esper.karn.catalogue import draft, measure
from esper.karn.table import find

if TYPE_CHECKING:
    from rich.tree import Tree


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

    site: SiteShape
    root: Part
    parameters: int
    flops_per_sample: int
    residual: bool


def draw(blueprint_id: str, site: SiteShape) -> Drawing:
    """Look at a blueprint's module; nothing of it is trained or kept.

    Raises InvalidInput for a site shape that the blueprint does not serve.
    """
    blueprint = find(blueprint_id)
    module = draft(blueprint, site, blueprint.resolve({}))
    outputs = _outputs(module, site)
    cost = measure(blueprint_id, site)
    root = _part("", module, outputs)
    return Drawing(site, root, cost.parameters, cost.flops_per_sample, cost.residual)


def tree_of(drawing: Drawing, title: str) -> Tree:
    """The drawing for a terminal."""
    from rich.text import Text  # noqa: PLC0415 - only people see it
    from rich.tree import Tree  # noqa: PLC0415

    tree = Tree(Text(f"{title} at {drawing.site.kind} {shape_text(drawing.site.shape)}", style="bold"))
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
    seen: dict[nn.Module, tuple[int, ...]] = {}

    def see(which: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() > 1:
            seen[which] = tuple(output.shape[1:])

    handles = [each.register_forward_hook(see) for each in module.modules()]
    with torch.no_grad():
        module(torch.empty((2, *site.shape), device="meta"))
    for handle in handles:
        handle.remove()
    return seen
