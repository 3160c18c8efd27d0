"""Where a seed's kernel comes from, and how its compiled form takes the place of the eager one.

A module's weights are always the run's own, drawn from the seed's stream (docs/decisions/0009): what the library gives
is a verified artifact, whose guard the module must fit. So a module that was built because the library had nothing yet
is the same, bit for bit, and no result depends on how fast the forge was.

A compiled form serves from a step boundary on, once it agrees with the eager one on a real activation. The parameters
stay the module's, so optimiser and saved state notice nothing. It serves where the seed is mixed in and learns; what is
measured or evaluated runs the module.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import KernelSwapped, SiteDescription
from contracts.leyline.v1.leyline_pb2 import TELEMETRY_LEVEL_WARNING
from esper.errors import EsperError
from esper.kasmina import lifecycle
from esper.kasmina.graft import Grafts, on_borrowed
from esper.kasmina.seed import Form, Slot
from esper.kasmina.sites import Stream, activation_of, device_of, drawing_from, evaluating

BATCH: Final = "batch"
"""What a guard writes for the batch axis."""
TOLERANCE: Final = 1e-5
SWAPPABLE: Final = frozenset({lifecycle.BLENDING, lifecycle.PROBATIONARY, lifecycle.FOSSILIZED})
"""Stages in which the seed learns from the host's own backward pass."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A kernel of the library that this process has checked: its reference and the guard of its manifest."""

    artifact_ref: str
    guard: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Unusable:
    """The library has a kernel and it cannot be used; `reason` is one word, `detail` one line."""

    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class Compiled(Protocol):
    """The compiled form of a kernel that the library has, ready to be made for a module."""

    @property
    def artifact_ref(self) -> str:
        """Of the artifact that it comes from."""

    def form_of(self, module: nn.Module, h: Tensor) -> Form:
        """The form for `module`, used on activations like `h`; raises EsperError where it cannot be had."""


class Kernels(Protocol):
    """The library of kernels; it is asked between two steps, so it must answer at once."""

    def find(
        self, blueprint_id: str, site: SiteDescription, parameters: Mapping[str, float]
    ) -> Verified | Unusable | None:
        """The kernel of a blueprint for a site and settings; None where the library has none that is known of."""


class NoKernels:
    """A library that has nothing: every module is built from its template."""

    def find(
        self, _blueprint_id: str, _site: SiteDescription, _parameters: Mapping[str, float]
    ) -> Verified | Unusable | None:
        """Nothing."""
        return None


def misfit(kernel: Verified, module: nn.Module, site: SiteDescription) -> Unusable | None:
    """What a guard says against attaching `module` at `site`: another activation, another tensor, another layout."""
    activation = [BATCH, *site.shape]
    for entry in kernel.guard:
        if entry["role"] != "state" and entry.get("shape") != activation:
            detail = f"{entry['role']} is {entry.get('shape')}, the site gives {activation}"
            return Unusable("shape_mismatch", f"{kernel.artifact_ref}: {detail}")
    guarded = {entry["name"]: _layout(entry) for entry in kernel.guard if entry["role"] == "state"}
    found = {
        name: [list(tensor.shape), list(tensor.stride()), str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in module.state_dict().items()
    }
    others = sorted(name for name in found.keys() | guarded if found.get(name) != guarded.get(name))
    if others:
        return Unusable("guard_mismatch", f"{kernel.artifact_ref} guards other tensors: {', '.join(others)}")
    return None


def _layout(entry: Mapping[str, Any]) -> list[Any]:
    return [entry.get("shape"), entry.get("stride"), entry.get("dtype")]


class FormsDisagree(EsperError):
    """The two forms do not compute the same."""


def swap(slot: Slot, grafts: Grafts, kernel: Compiled, forward: Callable[[], object]) -> KernelSwapped | None:
    """Let the compiled form serve from the next step on; None, with the reason told, where it cannot.

    `forward` runs the host on a real batch.
    """
    seed = slot.occupant()
    before = seed.form
    try:
        h = activation(slot, grafts, forward)
        with torch.random.fork_rng(devices=[]), _briefly_training(seed.module):
            form = kernel.form_of(seed.module, h)
            size = largest_difference(seed.module, form, h)
        if not size <= TOLERANCE:
            raise FormsDisagree(f"compiled and eager differ by {size:.1e}, more than {TOLERANCE:.0e}")
    except EsperError as error:
        grafts.outbox.tell(slot.seed_id, "kernel_swap_refused", TELEMETRY_LEVEL_WARNING, error=error)
        return back_to_eager(slot) if seed.compiled_ref else None
    seed.compiled, seed.compiled_ref = form, kernel.artifact_ref
    return _fact(slot, before, size)


def back_to_eager(slot: Slot) -> KernelSwapped:
    """The eager form serves again, because the compiled one cannot be had any more."""
    seed = slot.occupant()
    fact = _fact(slot, seed.form, 0.0)
    seed.compiled, seed.compiled_ref = None, ""
    fact.to_form = seed.form
    return fact


def activation(slot: Slot, grafts: Grafts, forward: Callable[[], object]) -> Tensor:
    """What the host gives at the slot's site in `forward`, without a trace: (B, ...), a leaf that takes a gradient."""
    found: list[Tensor] = []
    site = grafts.host.get_submodule(slot.description.site)
    handle = site.register_forward_hook(
        lambda _site, _inputs, output: found.append(activation_of(output).detach().clone()), prepend=True
    )
    try:
        with (
            evaluating(grafts.host),
            grafts.passing(traceless=True),
            drawing_from(Stream(0, device_of(grafts.host))),
            torch.no_grad(),
        ):
            on_borrowed(grafts.host, forward)
    finally:
        handle.remove()
    return found[0].requires_grad_()


def largest_difference(module: nn.Module, form: Form, h: Tensor) -> float:
    """Largest difference of outputs and of input gradients, relative to their size where that is above 1."""
    results: list[tuple[Tensor, Tensor]] = []
    for each in (copy.deepcopy(module), form):
        torch.manual_seed(0)
        out = each(h)
        (gradient,) = torch.autograd.grad(out.sum(), [h])
        results.append((out.detach().clone(), gradient.clone()))
    (out, gradient), (other_out, other_gradient) = results
    return max(_relative(out, other_out), _relative(gradient, other_gradient))


@contextmanager
def _briefly_training(module: nn.Module) -> Iterator[None]:
    """The module in training mode; afterwards its mode and buffers are what they were."""
    mode = module.training
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.train()
    try:
        yield
    finally:
        module.train(mode)
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp(min=1.0))


def _fact(slot: Slot, before: str, size: float) -> KernelSwapped:
    seed = slot.occupant()
    return KernelSwapped(
        seed_id=slot.seed_id,
        blueprint_id=seed.blueprint_id,
        from_form=before,
        to_form=seed.form,
        artifact_ref=seed.compiled_ref,
        max_difference=size,
    )
