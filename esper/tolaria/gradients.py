"""Gradients of a step: one backward pass, or several microbatches combined; how much each stage counts; clipping.

Host and live seeds share a loss and so a gradient norm. A seed in TRAINING has a loss of its own (its side pass) and is
clipped alone, so that nothing about it can change what the host learns (ruling 7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from contracts.leyline.v1.leyline_pb2 import (
    SEED_LIFECYCLE_STAGE_BLENDING,
    SEED_LIFECYCLE_STAGE_CULLED,
    SEED_LIFECYCLE_STAGE_DORMANT,
    SEED_LIFECYCLE_STAGE_EMBARGOED,
    SEED_LIFECYCLE_STAGE_FOSSILIZED,
    SEED_LIFECYCLE_STAGE_GERMINATED,
    SEED_LIFECYCLE_STAGE_PROBATIONARY,
    SEED_LIFECYCLE_STAGE_RESETTING,
    SEED_LIFECYCLE_STAGE_SHADOWING,
    SEED_LIFECYCLE_STAGE_TERMINATED,
    SEED_LIFECYCLE_STAGE_TRAINING,
    SeedLifecycleStage,
)
from esper.errors import ContractViolation
from esper.kasmina.passes import Closure

Part = tuple[float, Closure]
"""A microbatch: its share of the batch's samples, and the closure that gives its mean loss."""

Gradients = list[Tensor | None]
"""One gradient per parameter, None where the loss does not reach it."""

CONFLICT_THRESHOLD: Final = -0.5
"""Gradients whose cosine is below this conflict."""

_RAMP_STEEPNESS: Final = 2.0
_STAGE_WEIGHT: Final[dict[int, float]] = {
    SEED_LIFECYCLE_STAGE_DORMANT: 0.0,
    SEED_LIFECYCLE_STAGE_GERMINATED: 0.01,
    SEED_LIFECYCLE_STAGE_TRAINING: 0.1,
    SEED_LIFECYCLE_STAGE_SHADOWING: 0.5,
    SEED_LIFECYCLE_STAGE_PROBATIONARY: 1.0,
    SEED_LIFECYCLE_STAGE_FOSSILIZED: 0.0,
    SEED_LIFECYCLE_STAGE_CULLED: 0.0,
    SEED_LIFECYCLE_STAGE_EMBARGOED: 0.0,
    SEED_LIFECYCLE_STAGE_RESETTING: 0.0,
    SEED_LIFECYCLE_STAGE_TERMINATED: 0.0,
}


def stage_weight(stage: SeedLifecycleStage, progress: float) -> float:
    """How much a seed's own loss counts in this stage; `progress` is the share of the run that is over.

    By ruling 7 only a seed in TRAINING has a loss of its own. The others' weights are the original's,
    BLENDING a sigmoid around half the run. Raises ContractViolation for a stage that does not exist.
    """
    if stage == SEED_LIFECYCLE_STAGE_BLENDING:
        return 1.0 / (1.0 + math.exp(-(progress - 0.5) * _RAMP_STEEPNESS))
    weight = _STAGE_WEIGHT.get(stage)
    if weight is None:
        raise ContractViolation(f"stage {stage} is none of the eleven, so it has no weight")
    return weight


def backward(
    closure: Closure,
    parts: Sequence[Part],
    parameters: Sequence[nn.Parameter],
    *,
    pcgrad: bool,
    generator: torch.Generator,
    scaled: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, int]:
    """Set `.grad` of the parameters to the gradient of the mean loss; returns that loss (scalar) and the conflicts.

    `closure` gives the mean loss of the batch, and it is `scaled` of it that is differentiated. With `parts`, its
    microbatches, their gradients are averaged by their shares instead, or combined by `combine_pcgrad`.
    """
    if not parts:
        loss = closure()
        (loss if scaled is None else scaled(loss)).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), 0
    total: Tensor | float = 0.0
    sources: list[Gradients] = []
    for share, of_part in parts:
        loss = share * of_part()
        total = total + loss.detach()
        sources.append(list(torch.autograd.grad(loss, parameters, allow_unused=True)))
    combined, conflicts = combine_pcgrad(sources, generator) if pcgrad else (combine_sum(sources), 0)
    for parameter, gradient in zip(parameters, combined, strict=True):
        parameter.grad = gradient
    assert isinstance(total, Tensor)
    return total, conflicts


def combine_sum(sources: Sequence[Gradients]) -> Gradients:
    """The sum of the sources, in float64 so that their order does not matter; None where none has a gradient."""
    combined: Gradients = []
    for gradients in zip(*sources, strict=True):
        present = [gradient for gradient in gradients if gradient is not None]
        total = torch.stack(present).double().sum(dim=0).to(present[0].dtype) if present else None
        combined.append(total)
    return combined


def combine_pcgrad(sources: Sequence[Gradients], generator: torch.Generator) -> tuple[Gradients, int]:
    """The sum of the sources after each was projected off those that it conflicts with; also the number of conflicts.

    Projecting conflicting gradients (Yu et al. 2020, arXiv 2001.06782, algorithm 1), parameter by parameter: every
    source meets the unchanged others in an order drawn from `generator`.
    """
    conflicts = 0
    projected: list[Gradients] = []
    for number, source in enumerate(sources):
        order = torch.randperm(len(sources), generator=generator).tolist()
        own: Gradients = list(source)
        for other in order:
            if other != number:
                conflicts += project(own, sources[other])
        projected.append(own)
    return combine_sum(projected), conflicts


def project(gradients: Gradients, against: Gradients) -> int:
    """Replace, in `gradients`, what conflicts with `against` by its part orthogonal to it; returns how many did."""
    conflicts = 0
    for position, (own, other) in enumerate(zip(gradients, against, strict=True)):
        if own is None or other is None:
            continue
        left, right = own.flatten().double(), other.flatten().double()
        norms = float(left.norm() * right.norm())
        if norms > 0 and float(left @ right) / norms < CONFLICT_THRESHOLD:
            orthogonal = left - (left @ right) / (right @ right) * right
            gradients[position] = orthogonal.view_as(own).to(own.dtype)
            conflicts += 1
    return conflicts


@dataclass(frozen=True, slots=True)
class Learners:
    """The parameters that learn now: `joint` from the host's loss, each of `alone` from its own, with its weight."""

    joint: list[nn.Parameter]
    alone: list[tuple[list[nn.Parameter], float]]


class NormVariance:
    """The variance of the gradient norms of an epoch's steps, one after the other (Welford 1962)."""

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, norm: float) -> None:
        """Count one more; one that is no number is no step."""
        if math.isfinite(norm):
            self._count += 1
            before = norm - self._mean
            self._mean += before / self._count
            self._squares += before * (norm - self._mean)

    @property
    def variance(self) -> float:
        """0 for fewer than two."""
        return self._squares / (self._count - 1) if self._count > 1 else 0.0


def clip(learners: Learners, limit: float | None) -> float:
    """Scale the gradients of each loss down to a norm of `limit`, if any; returns the joint norm before, NaN included.

    Gradients of a lone seed are weighted first; where they are no numbers that seed alone skips the step.
    """
    for parameters, weight in learners.alone:
        present = [parameter for parameter in parameters if parameter.grad is not None]
        for parameter in present:
            parameter.grad.mul_(weight)  # type: ignore[union-attr]
        if present and not math.isfinite(_clip(present, limit)):
            for parameter in present:
                parameter.grad = None
    return _clip(learners.joint, limit)


def _clip(parameters: Sequence[nn.Parameter], limit: float | None) -> float:
    """As torch's `clip_grad_norm_`, to the bit, but without multiplying gradients that are short enough by one."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = nn.utils.get_total_norm(gradients)
    norm = float(total)
    # Torch's factor is limit / (norm + 1e-6) in float32; near the limit, and for NaN, it is left to say what it is.
    if limit is not None and not norm + 1e-6 < 0.999 * limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, total)
    return norm
