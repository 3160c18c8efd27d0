"""TRAINING: the seed learns from a pass of its own (ruling 7).

The batch is forwarded once more with the seed mixed in at its target alpha, and the loss's gradient is taken for the
seed's parameters only. The host is run on parameters without gradient and on copies of its buffers, and everything
random draws from the seed's own stream: host gradients, running statistics and random numbers are bit for bit what they
are without the seed. The straight-through trick, where the seed's effect is cancelled in the forward, is measured to
fail, because the seed never sees its own effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from contracts.leyline.v1.leyline_pb2 import TELEMETRY_LEVEL_WARNING
from esper.kasmina.graft import Grafts, borrowed
from esper.kasmina.randomness import drawing_from
from esper.kasmina.seed import Slot

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of a batch from (outputs, targets); a tensor without axes."""


@dataclass(frozen=True, slots=True)
class SidePassResult:
    """What a side pass did. `learnt` is False where the seed failed, leaked, or its loss was not finite."""

    seed_id: str
    loss: float
    gradient_norm: float
    learnt: bool


def run_side_pass(
    slot: Slot,
    grafts: Grafts,
    batch: tuple[Tensor, Tensor],
    loss_fn: LossFunction,
) -> SidePassResult:
    """Set `.grad` of the parameters of the slot's seed, which is in TRAINING, from one pass over `batch`.

    The seed's own buffers and stream move on; nothing else does. A pass that fails leaves its gradients None.
    """
    host = grafts.host
    seed = slot.occupant()
    parameters = [parameter for parameter in seed.module.parameters() if parameter.requires_grad]
    failures = seed.forward_errors + slot.violations
    inputs, targets = batch
    with drawing_from(seed.stream), grafts.passing(slot, learner=slot), torch.enable_grad():
        loss = loss_fn(functional_call(host, borrowed(host), (inputs.detach(),)), targets)
    seed.side_loss = float(loss.detach())
    for parameter in parameters:
        parameter.grad = None
    if seed.forward_errors + slot.violations > failures:
        return SidePassResult(slot.seed_id, seed.side_loss, 0.0, learnt=False)
    if not torch.isfinite(loss.detach()):
        seed.nonfinite_losses += 1
        grafts.outbox.tell(slot.seed_id, "seed_loss_not_finite", TELEMETRY_LEVEL_WARNING, loss=seed.side_loss)
        return SidePassResult(slot.seed_id, seed.side_loss, 0.0, learnt=False)
    seed.training_steps += 1
    if not parameters or not loss.requires_grad:
        return SidePassResult(slot.seed_id, seed.side_loss, 0.0, learnt=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    present = [gradient for gradient in gradients if gradient is not None]
    seed.gradient_norm = float(nn.utils.get_total_norm(present))
    return SidePassResult(slot.seed_id, seed.side_loss, seed.gradient_norm, learnt=True)
