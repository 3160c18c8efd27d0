"""Which places of a model could be sites: found by one forward pass, chosen by names, patterns or all of them.

A submodule can be a site where it is reached once in a forward pass and gives a float tensor of a shape that seeds know
(`AXES`), or a tuple that begins with one. Submodules that give the very same tensor, such as a block and its last
layer, are one place, and the outermost stands for it; what the whole model gives is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from torch import Tensor, nn

from esper.errors import InvalidInput
from esper.kasmina.sites import Site, find_module, without_a_trace
from esper.kasmina.width import LAYERS
from esper.kasmina.width_places import Prober

AUTO: Final = "auto"
KINDS: Final = {2: "vector", 3: "token", 4: "image"}
"""The kind of a site by the dimensions of what it gives, batch first."""

MOST_PLACES: Final = 64
NEXT: Final = 3
"""A layer's consumer is one of so many that run after it: between them there may be a branch."""

SiteNames = str | Sequence["str | Site | tuple[str, ...]"]
"""`auto`; or names and patterns such as "blocks.*", sites, and (name, kind) or (name, kind, consumer)."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A submodule of a model and whether it can be a site.

    `shape` is that of what it gives, without the batch; `of_tuple` says that this is the first part of a tuple.
    `why_not` is empty where it can be a site, and `same_as` names the place that it is the same as.
    """

    module: str
    type_name: str
    kind: str = ""
    shape: tuple[int, ...] = ()
    of_tuple: bool = False
    why_not: str = ""
    same_as: str = ""

    @property
    def site(self) -> Site:
        """The site of this proposal; for those without `why_not`."""
        return Site(self.module, self.kind)  # type: ignore[arg-type]  # one of KINDS


@dataclass(frozen=True, slots=True)
class _Reached:
    name: str
    output: Any


def propose_sites(model: nn.Module, forward: Callable[[], Any]) -> list[Proposal]:
    """All submodules that one forward pass reaches, in the order in which they give their output.

    `forward` runs the model once on one batch. It leaves no trace: evaluation mode, no gradient, no random number.
    """
    reached = _reached(model, forward)
    outermost = {id(tensor): each.name for each in reached if (tensor := _tensor(each.output)) is not None}
    counts = {each.name: 0 for each in reached}
    for each in reached:
        counts[each.name] += 1
    proposals = {}
    for each in reached:
        if each.name and each.name not in proposals:
            proposals[each.name] = _proposal(model, each, counts[each.name], outermost)
    return list(proposals.values())


def choose_sites(
    model: nn.Module, forward: Callable[[], Any], wanted: SiteNames, *, tuples: bool = False
) -> tuple[Site, ...]:
    """The sites that a person asked for; `auto` is every submodule that can be one.

    A name or pattern takes its kind from what the submodule gives. With `tuples`, submodules that give a tuple whose
    first part is a tensor count too. Raises InvalidInput for what does not exist, with what comes near, cannot be a
    site, with the reason, or is named twice.
    """
    proposals = {each.module: each for each in propose_sites(model, forward)}
    if wanted == AUTO:
        return tuple(each.site for each in proposals.values() if not _why_not(each, tuples=tuples))
    chosen: dict[tuple[str, str], Site] = {}
    for each in [wanted] if isinstance(wanted, str) else wanted:
        for site in _chosen(model, proposals, each, tuples=tuples):
            if chosen.setdefault((site.module, site.consumer), site) != site:
                raise InvalidInput(f"site {site.module!r} is named twice, with two kinds; name each site once")
    return tuple(chosen.values())


def _chosen(
    model: nn.Module, proposals: dict[str, Proposal], wanted: str | Site | tuple[str, ...], *, tuples: bool
) -> list[Site]:
    if isinstance(wanted, Site):
        return [wanted]
    if isinstance(wanted, tuple):
        name, kind, *consumer = wanted
        return [Site(name, kind, consumer="".join(consumer))]  # type: ignore[arg-type]  # a wrong kind is refused by name
    if any(sign in wanted for sign in "*?["):
        found = [
            each.site
            for name, each in proposals.items()
            if fnmatchcase(name, wanted) and not _why_not(each, tuples=tuples)
        ]
        if not found:
            names = [name for name, _ in model.named_modules() if fnmatchcase(name, wanted)]
            of = f"none of {', '.join(names[:5])} can be a site" if names else "no submodule is called so"
            raise InvalidInput(f"sites {wanted!r}: {of}; `esper sites FILE` lists those that can")
        return found
    if wanted not in proposals:
        module = find_module(model, wanted)
        raise InvalidInput(f"site {wanted!r} ({type(module).__name__}) is not reached in a forward pass")
    if reason := _why_not(proposals[wanted], tuples=tuples, named=True):
        raise InvalidInput(f"{wanted!r} cannot be a site: {reason}")
    return [proposals[wanted].site]


def _why_not(proposal: Proposal, *, tuples: bool, named: bool = False) -> str:
    """Why it cannot be a site, or need not be one; what a person names may be one that stands for another."""
    if proposal.of_tuple and not tuples:
        return "it gives a tuple, and a seed needs one tensor"
    if proposal.same_as and not named:
        return f"it gives the same tensor as {proposal.same_as}"
    return proposal.why_not


def _proposal(model: nn.Module, reached: _Reached, runs: int, outermost: dict[int, str]) -> Proposal:
    name, tensor = reached.name, _tensor(reached.output)
    type_name = type(model.get_submodule(name)).__name__
    if tensor is None:
        return Proposal(
            name, type_name, why_not=f"it gives a {type(reached.output).__name__}, and a seed needs a tensor"
        )
    shape, kind = tuple(tensor.shape[1:]), KINDS.get(tensor.dim(), "")
    why_not = ""
    if runs != 1:
        why_not = f"it runs {runs} times in a forward pass, and a site must run once"
    elif not tensor.is_floating_point():
        why_not = f"it gives {str(tensor.dtype).removeprefix('torch.')}, and a seed needs floats"
    elif not kind:
        why_not = f"it gives {tensor.dim()} dimensions, batch first, and seeds know 2, 3 and 4"
    same = outermost[id(tensor)]
    of_model = same or "what the whole model gives"
    return Proposal(
        name,
        type_name,
        kind=kind,
        shape=shape,
        of_tuple=not isinstance(reached.output, Tensor),
        why_not=why_not,
        same_as="" if same == name else of_model,
    )


def _tensor(output: Any) -> Tensor | None:
    """The tensor that a seed would change: the output itself, or the first part of a tuple."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _reached(model: nn.Module, forward: Callable[[], Any]) -> list[_Reached]:
    """Every run of a submodule, and of the model under the name "", in the order in which they end."""
    seen: list[_Reached] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: seen.append(_Reached(name, output))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(look(name)).remove)
        stack.enter_context(without_a_trace(model))
        forward()
    return seen


def propose_wide(model: nn.Module, forward: Callable[[], Any], *, most: int = MOST_PLACES) -> list[Site]:
    """The places where the model itself could become wider: a layer and its consumer.

    A layer's consumer is looked for among the next ones that run. Every try costs a few forward passes, so of a very
    deep model only the first `most` layers are tried.
    """
    reached = _reached(model, forward)
    layers = [each.name for each in reached if isinstance(model.get_submodule(each.name), LAYERS)]
    if not layers:
        return []
    prober = Prober(model, forward, lambda: without_a_trace(model), {})
    found, taken = [], set[str]()
    for number, producer in enumerate(layers[:most]):
        for consumer in layers[number + 1 : number + 1 + NEXT]:
            if consumer in taken:
                continue
            with suppress(InvalidInput):
                kind, _, _ = prober.describe(producer, consumer)
                found.append(Site(producer, kind, consumer=consumer))  # type: ignore[arg-type]  # one of KINDS
                taken.add(consumer)
                break
    return found
