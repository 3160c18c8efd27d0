"""Sites: named places inside a host after which a seed can grow, and running the host without leaving a trace.

Any submodule of any host can be a site. Shapes are discovered by one forward pass on one batch with temporary hooks:
no gradient, no running statistic, no random number, no training flag changes. A site without a seed has no code in the
forward path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from contracts.leyline.v1.event_pb2 import BlueprintOption, SiteDescription
from contracts.leyline.v1.leyline_pb2 import BLEND_MODE_CONVEX, BlendMode
from esper.errors import InvalidInput
from esper.kasmina.settings import Axis
from esper.kasmina.width_places import TRIED_ON, Prober
from esper.leyline.names import meant

ShapeKind = Literal["vector", "image", "token"]

AXES: Final[dict[str, str]] = {
    "vector": "(batch, features)",
    "image": "(batch, channels, height, width)",
    "token": "(batch, tokens, features)",
}

_DIMENSIONS: Final[dict[str, int]] = {"vector": 2, "image": 4, "token": 3}


@dataclass(frozen=True, slots=True)
class Site:
    """A place that a task offers for growth: a submodule's dotted name and what its activation is.

    CONVEX is the mode that is safe for a residual seed; a mode that needs more than the site can give is refused when a
    seed germinates.

    With a `consumer` it is a place where the host itself can become wider: the submodule is a linear layer or
    convolution, the consumer the one that takes its units in (`esper.kasmina.width_places`).

    With a `head_size` besides it is attention that can have more heads of so many features: the producer is one linear
    layer whose rows are all queries, then all keys, then all values, head by head; the consumer is the output
    projection; and the module that runs both must take the number of heads from what the producer gives.
    """

    module: str
    shape_kind: ShapeKind
    blend_mode: BlendMode = BLEND_MODE_CONVEX
    consumer: str = ""
    head_size: int = 0

    @property
    def axis(self) -> Axis:
        """Along which axis the host grows here."""
        return "depth" if not self.consumer else "heads" if self.head_size else "width"


def channel_axis(shape_kind: str) -> int:
    """The axis of an activation that counts its channels: 1 for vector and image, 2 for token."""
    return 2 if shape_kind == "token" else 1


def device_of(host: nn.Module) -> torch.device:
    """Where the host's first parameter or buffer lives; the CPU for a host that has none."""
    for tensor in (*host.parameters(), *host.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def evaluating(host: nn.Module) -> Iterator[None]:
    """The host in evaluation mode; afterwards every submodule has its own training flag back."""
    flags = [(module, module.training) for module in host.modules()]
    host.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def find_module(host: nn.Module, name: str) -> nn.Module:
    """The host's submodule called `name`; raises InvalidInput with those which come near, or exist."""
    modules: dict[str, nn.Module] = dict(host.named_modules())
    if name not in modules:
        known = [other for other in modules if other]
        more = f" and {len(known) - 20} more" if len(known) > 20 else ""
        listed = ", ".join(known[:20]) or "no submodules"
        hint = meant(name, known, f"it has {listed}{more}", most=3)
        raise InvalidInput(f"there is no site {name!r} in {type(host).__name__}; {hint}")
    return modules[name]


def describe_sites(
    host: nn.Module,
    sites: Sequence[Site],
    sample: Any,
    options: Callable[[SiteDescription], list[BlueprintOption]],
) -> list[SiteDescription]:
    """What each site is, with seed ids s1, s2, …; `options` says what could grow there.

    In the order given, those with a consumer after all others. Runs the host once on `sample`, a batch of its inputs,
    nested as it takes them, or a function that runs it on one, and a few times more for each place that can become
    wider. Raises InvalidInput for a site that does not exist, is named twice, does not run exactly once per forward
    pass, or does not give one tensor of the shape kind that it claims, and for a place that cannot become wider, with
    what stands in the way.
    """
    modules = [site for site in sites if not site.consumer]
    wide = [site for site in sites if site.consumer]
    for group in ([site.module for site in modules], [site.module for site in wide], [site.consumer for site in wide]):
        for name in group:
            if group.count(name) > 1:
                raise InvalidInput(f"site {name!r} is named {group.count(name)} times; name each site once")
    descriptions = _describe_modules(host, modules, runner(host, sample))
    descriptions += _describe_wide(host, wide, runner(host, sample, most=TRIED_ON), descriptions)
    for description in descriptions:
        description.options.extend(options(description))
    return descriptions


def runner(host: nn.Module, sample: Any, most: int | None = None) -> Callable[[], object]:
    """A function that runs the host on the sample, of a batch on `most` of its first samples."""
    few = None if callable(sample) else tree_map(lambda leaf: leaf[:most], sample)
    return partial(host, few) if few is not None else partial(sample)


def _describe_modules(host: nn.Module, sites: Sequence[Site], forward: Callable[[], object]) -> list[SiteDescription]:
    names = [site.module for site in sites]
    outputs = _record(host, names, forward)
    order = [name for name, _ in outputs]
    found = dict(outputs)
    descriptions = []
    for number, site in enumerate(sites, start=1):
        runs = order.count(site.module)
        if runs != 1:
            raise InvalidInput(
                f"site {site.module!r} runs {runs} times in a forward pass; a site must run exactly once"
            )
        description = SiteDescription(
            site=site.module,
            seed_id=f"s{number}",
            shape_kind=site.shape_kind,
            shape=_checked_shape(site, found[site.module]),
            depth=order.index(site.module),
            blend_mode=site.blend_mode,
        )
        descriptions.append(description)
    return descriptions


def _describe_wide(
    host: nn.Module, sites: Sequence[Site], forward: Callable[[], object], others: Sequence[SiteDescription]
) -> list[SiteDescription]:
    if not sites:
        return []
    prober = Prober(host, forward, lambda: without_a_trace(host), {each.site: each.seed_id for each in others})
    descriptions = []
    for number, site in enumerate(sites, start=len(others) + 1):
        kind, shape, place = prober.describe(site.module, site.consumer, site.head_size)
        if kind != site.shape_kind:
            raise InvalidInput(f"width site {site.module!r} gives a {kind} activation, and is named {site.shape_kind}")
        descriptions.append(
            SiteDescription(
                site=site.module,
                seed_id=f"s{number}",
                shape_kind=kind,
                shape=shape,
                depth=prober.position(site.module, [each.module for each in sites]),
                blend_mode=site.blend_mode,
                width=place,
            )
        )
    return descriptions


@contextmanager
def without_a_trace(host: nn.Module) -> Iterator[None]:
    """Forwards in evaluation mode, without gradient, on a random stream of their own that begins anew."""
    with evaluating(host), drawing_from(Stream(0, device_of(host))), torch.no_grad():
        yield


def _record(host: nn.Module, names: Sequence[str], forward: Callable[[], object]) -> list[tuple[str, Any]]:
    """Every run of a named submodule in one forward pass, in order, with its output."""
    seen: list[tuple[str, Any]] = []

    def recorder(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: seen.append((name, activation_of(output)))

    with ExitStack() as stack:
        for name in names:
            handle = find_module(host, name).register_forward_hook(recorder(name))
            stack.callback(handle.remove)
        stack.enter_context(without_a_trace(host))
        forward()
    return seen


def activation_of(output: Any) -> Any:
    """What a seed grows behind of a submodule's output: the first element of a tuple or list, else the output."""
    return output[0] if isinstance(output, (tuple, list)) and output else output


def with_activation(output: Any, activation: Tensor) -> Any:
    """The submodule's output with another activation in it."""
    if not isinstance(output, (tuple, list)):
        return activation
    rest = [activation, *output[1:]]
    return type(output)(*rest) if hasattr(output, "_fields") else type(output)(rest)


def _checked_shape(site: Site, output: Any) -> tuple[int, ...]:
    if site.shape_kind not in _DIMENSIONS:
        raise InvalidInput(f"site {site.module!r} has shape kind {site.shape_kind!r}; known are {', '.join(AXES)}")
    if not isinstance(output, Tensor):
        raise InvalidInput(f"site {site.module!r} gives a {type(output).__name__}; a seed needs one tensor")
    if output.dim() != _DIMENSIONS[site.shape_kind] or not output.is_floating_point():
        raise InvalidInput(
            f"site {site.module!r} gives {output.dtype} of shape {tuple(output.shape)}; "
            f"{site.shape_kind} means floating point {AXES[site.shape_kind]}"
        )
    return tuple(output.shape[1:])


def derived_seed(seed: int, name: str) -> int:
    """A 63-bit seed for the stream called `name` of a run whose seed is `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


class Stream:
    """The states of one random stream, one for the CPU and one for `device` where that is CUDA."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self.states: list[Tensor] = [torch.Generator().manual_seed(seed).get_state()]
        if self._device is not None:
            self.states.append(torch.Generator(self._device).manual_seed(seed).get_state())

    def swap_in(self) -> list[Tensor]:
        """Give the global generators this stream's states; returns what they had."""
        return self._exchange(self.states)

    def swap_out(self, before: list[Tensor], *, keep: bool) -> None:
        """Give the global generators `before` back. With `keep`, the stream goes on from where it was drawn to."""
        drawn = self._exchange(before)
        if keep:
            self.states = drawn

    def _exchange(self, states: list[Tensor]) -> list[Tensor]:
        before = [torch.get_rng_state()]
        torch.set_rng_state(states[0])
        if self._device is not None:
            before.append(torch.cuda.get_rng_state(self._device))
            torch.cuda.set_rng_state(states[1], self._device)
        return before


@contextmanager
def drawing_from(stream: Stream, *, keep: bool = True) -> Iterator[None]:
    """Everything random inside draws from `stream`; without `keep` the stream itself does not move either."""
    before = stream.swap_in()
    try:
        yield
    finally:
        stream.swap_out(before, keep=keep)
