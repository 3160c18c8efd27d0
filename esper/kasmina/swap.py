"""A seed's compiled form in the place of its eager one, at a step boundary, once both agree on a real activation.

The parameters stay the module's, so optimiser and saved state notice nothing. The compiled form serves where the seed
is mixed in and learns; what is measured or evaluated runs the module.
"""

from __future__ import annotations

import copy
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from contracts.leyline.v1.event_pb2 import KernelSwapped
from contracts.leyline.v1.leyline_pb2 import TELEMETRY_LEVEL_WARNING
from esper.errors import EsperError
from esper.kasmina import lifecycle
from esper.kasmina.graft import Grafts, borrowed
from esper.kasmina.kernels import Compiled, Form
from esper.kasmina.randomness import Stream, drawing_from
from esper.kasmina.seed import Slot
from esper.kasmina.sites import device_of, evaluating

TOLERANCE: Final = 1e-5
SWAPPABLE: Final = frozenset({lifecycle.BLENDING, lifecycle.PROBATIONARY, lifecycle.FOSSILIZED})
"""Stages in which the seed learns from the host's own backward pass."""


class Disagrees(EsperError):
    """The two forms do not compute the same."""


def swap(slot: Slot, grafts: Grafts, kernel: Compiled, inputs: Tensor) -> KernelSwapped | None:
    """Let the compiled form serve from the next step on; None, with the reason told, where it cannot.

    `inputs` is a real batch of the host.
    """
    seed = slot.occupant()
    before = seed.form
    try:
        h = activation(slot, grafts, inputs)
        with torch.random.fork_rng(devices=[]), _unmoved(seed.module):
            form = kernel.form_of(seed.module, h)
            size = difference(seed.module, form, h)
        if not size <= TOLERANCE:
            raise Disagrees(f"compiled and eager differ by {size:.1e}, more than {TOLERANCE:.0e}")
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


def activation(slot: Slot, grafts: Grafts, inputs: Tensor) -> Tensor:
    """What the host gives at the slot's site for a batch, without a trace: (B, ...), a leaf that takes a gradient."""
    found: list[Tensor] = []
    site = grafts.host.get_submodule(slot.description.site)
    handle = site.register_forward_hook(lambda _site, _inputs, h: found.append(h.detach().clone()), prepend=True)
    try:
        with (
            evaluating(grafts.host),
            grafts.passing(traceless=True),
            drawing_from(Stream(0, device_of(grafts.host))),
            torch.no_grad(),
        ):
            functional_call(grafts.host, borrowed(grafts.host), (inputs,))
    finally:
        handle.remove()
    return found[0].requires_grad_()


def difference(module: nn.Module, form: Form, h: Tensor) -> float:
    """Largest difference of outputs and of input gradients, relative to their size where that is above 1."""
    results: list[tuple[Tensor, Tensor]] = []
    for each in (copy.deepcopy(module), form):
        torch.manual_seed(0)
        out = each(h)
        (gradient,) = torch.autograd.grad(out.sum(), [h])
        results.append((out.detach().clone(), gradient.clone()))
    (out, gradient), (other_out, other_gradient) = results
    return max(_relative(out, other_out), _relative(gradient, other_gradient))


class _unmoved:  # noqa: N801 - used as a statement
    """The module is in training mode inside, and its buffers and mode are what they were afterwards."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._training = self._module.training
        self._buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        self._module.train()

    def __exit__(self, *_: object) -> None:
        self._module.train(self._training)
        with torch.no_grad():
            for name, buffer in self._module.named_buffers():
                buffer.copy_(self._buffers[name])


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
