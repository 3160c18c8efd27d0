"""A blueprint as a kernel: its module with initial weights, its guard, its two forms, and how fast each is.

Axes: B batch, first in every activation.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import safetensors.torch
import torch
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.errors import EsperError, InvalidInput
from esper.karn.catalogue import build
from esper.karn.layers import SeedModule
from esper.karn.table import find
from esper.tezzeret.pipelines import Pipeline
from esper.tezzeret.results import BATCH, GuardEntry, Order, Prewarm
from esper.tezzeret.scan import refusal

BATCHES: Final = (16, 64)
"""Batch sizes that a kernel is warmed at: the usual one of the small tasks and a larger one."""
WARM_UPS: Final = 3
SAMPLES: Final = 20
LONGEST_S: Final = 1.0
"""Sampling of one batch size stops after this long, once it has three."""
TOLERANCE: Final = 1e-5
Clock = Callable[[], float]
Form = Callable[[Tensor], Tensor]


class CompilerFailed(EsperError):
    """The compiler raised, or what it made computes something else; the eager kernel serves."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """The compiled form, what making it took, torch's cache of it, and how far its outputs are off."""

    form: Form
    compile_ms: float
    cache: bytes
    max_difference: float


def seed_of(job_id: str) -> int:
    """The seed of a job's initial weights: the same job draws the same bits."""
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8], "big") >> 1


def make(order: Order) -> SeedModule:
    """The module with its initial weights. Raises InvalidInput for a template that may not or cannot be built so."""
    blueprint = find(order.blueprint_id)
    why_not = refusal(blueprint, approved=order.approved)
    if why_not:
        raise InvalidInput(why_not)
    site = SiteDescription(site="kernel", shape_kind=order.shape_kind, shape=order.shape)
    generator = torch.Generator().manual_seed(seed_of(order.job_id))
    return build(order.blueprint_id, site, order.parameters, generator)


def weights_of(module: nn.Module) -> bytes:
    """Parameters and buffers as safetensors; the same weights give the same bytes."""
    tensors = {name: tensor.contiguous() for name, tensor in sorted(module.state_dict().items())}
    return safetensors.torch.save(tensors)


def guard_of(module: nn.Module, shape: tuple[int, ...]) -> tuple[GuardEntry, ...]:
    """What must hold where the kernel is attached: its input, its output, and every tensor of its state."""
    activation = {
        "shape": [BATCH, *shape],
        "dtype": "float32",
        "stride": list(torch.empty((1, *shape), device="meta").stride()),
        "requires_grad": True,
    }
    state = [
        {
            "index": index,
            "role": "state",
            "name": name,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "stride": list(tensor.stride()),
            "requires_grad": tensor.requires_grad,
        }
        for index, (name, tensor) in enumerate(sorted(module.state_dict(keep_vars=True).items()), start=2)
    ]
    return ({"index": 0, "role": "input", **activation}, {"index": 1, "role": "output", **activation}, *state)


def compile_form(module: nn.Module, shape: tuple[int, ...], pipeline: Pipeline, clock: Clock) -> Compiled:
    """A compiled copy of `module`, forward and backward made and compared with the eager one at every batch size.

    Randomness is eager's own (`fallback_random`), so that either form may replace the other in the middle of a run.
    Raises CompilerFailed, whatever the compiler raised.
    """
    shaken = _shaken(module)
    form = torch.compile(copy.deepcopy(shaken), options={"fallback_random": True, **pipeline.options})
    started = clock()
    try:
        differences = [difference(shaken, form, activation(batch, shape)) for batch in BATCHES]
        saved = torch.compiler.save_cache_artifacts()
    except Exception as error:  # the compiler may raise anything, and each of it means the eager kernel
        said = next((line for line in str(error).splitlines() if line.strip()), "")
        raise CompilerFailed(f"the compiler failed: {type(error).__name__}: {said}") from error
    compile_ms = (clock() - started) * 1000
    largest = max(differences)
    if not largest <= TOLERANCE:
        raise CompilerFailed(f"compiled and eager outputs differ by {largest:.1e}, more than {TOLERANCE:.0e}")
    return Compiled(form, compile_ms, saved[0] if saved is not None else b"", largest)


def activation(batch: int, shape: tuple[int, ...]) -> Tensor:
    """A sample input of shape (B, *shape), drawn from a stream of its own."""
    drawn = torch.randn((batch, *shape), generator=torch.Generator().manual_seed(batch))
    drawn.requires_grad_(True)
    # Only the batch varies between uses; were it fixed, every other size would compile anew at run time.
    torch._dynamo.maybe_mark_dynamic(drawn, 0)  # noqa: SLF001 - documented, and in no public module
    return drawn


def prewarm(form: Form, shape: tuple[int, ...], clock: Clock) -> tuple[Prewarm, ...]:
    """Times of training passes at every batch size, the largest last (R-TEZ-20)."""
    return tuple(_prewarm(form, activation(batch, shape), clock) for batch in BATCHES)


def percentile(samples: list[float], share: float) -> float:
    """The value below which `share` of the samples lie, interpolated linearly; 0 where there are none."""
    if not samples:
        return 0.0
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _prewarm(form: Form, h: Tensor, clock: Clock) -> Prewarm:
    for _ in range(WARM_UPS):
        _training_pass(form, h)
    samples: list[float] = []
    begun = clock()
    while len(samples) < SAMPLES and (len(samples) < 3 or clock() - begun < LONGEST_S):
        started = clock()
        _training_pass(form, h)
        samples.append((clock() - started) * 1000)
    return Prewarm(h.shape[0], percentile(samples, 0.5), percentile(samples, 0.95), len(samples))


def _training_pass(form: Form, h: Tensor) -> Tensor:
    out = form(h)
    out.sum().backward()  # type: ignore[no-untyped-call]
    return out


@torch.no_grad()
def _shaken(module: nn.Module) -> nn.Module:
    """A copy with noise on every parameter: a branch that ends in zeros would hide whatever is wrong inside it."""
    copied = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(1)
    for parameter in copied.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return copied


def difference(module: nn.Module, form: Form, h: Tensor) -> float:
    """Largest difference of outputs and input gradients, relative to their size where that is above 1."""
    results: list[tuple[Tensor, Tensor]] = []
    for each in (copy.deepcopy(module), form):
        h.grad = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out = _training_pass(each, h).detach().clone()
        assert h.grad is not None
        results.append((out, h.grad.clone()))
    (out, grad), (other_out, other_grad) = results
    return max(_relative(out, other_out), _relative(grad, other_grad))


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp(min=1.0))
