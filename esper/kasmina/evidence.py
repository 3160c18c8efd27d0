"""What one probe batch says about each site: where a gradient asks for more, and what the activation there is like.

One forward and one backward with temporary hooks, in evaluation mode, on borrowed parameters and copied buffers: it
leaves no trace in the host, its seeds, its gradients or any random stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from contracts.leyline.v1.event_pb2 import SiteDescription, SiteEvidence
from esper.kasmina.graft import Grafts, borrowed
from esper.kasmina.randomness import Stream, drawing_from
from esper.kasmina.side_pass import LossFunction
from esper.kasmina.sites import channel_axis, device_of, evaluating

DEAD_VARIANCE = 1e-8


def gather_evidence(
    sites: Sequence[SiteDescription],
    grafts: Grafts,
    batch: tuple[Tensor, Tensor],
    loss_fn: LossFunction,
) -> list[SiteEvidence]:
    """The evidence of every site, in the order of `sites`; live seeds count as part of the host."""
    host = grafts.host
    inputs, targets = batch
    activations: dict[str, Tensor] = {}

    def capture(seed_id: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_site: nn.Module, _inputs: Any, h: Tensor) -> Tensor:
            kept = h if h.requires_grad else h.detach().requires_grad_()
            activations[seed_id] = kept
            return kept.clone()  # whatever follows may work in place, which a leaf does not allow

        return hook

    with ExitStack() as stack:
        for site in sites:
            handle = host.get_submodule(site.site).register_forward_hook(capture(site.seed_id))
            stack.callback(handle.remove)
        stack.enter_context(evaluating(host))
        stack.enter_context(grafts.passing(traceless=True))
        stack.enter_context(drawing_from(Stream(0, device_of(host))))
        stack.enter_context(torch.enable_grad())
        loss = loss_fn(functional_call(host, borrowed(host), (inputs.detach(),)), targets)
        found = [activations[site.seed_id] for site in sites]
        gradients = torch.autograd.grad(loss, found, allow_unused=True)
    return [
        _evidence(site, activation.detach(), torch.zeros_like(activation) if gradient is None else gradient)
        for site, activation, gradient in zip(sites, found, gradients, strict=True)
    ]


def _evidence(site: SiteDescription, activation: Tensor, gradient: Tensor) -> SiteEvidence:
    """The figures of one site from its activation and the gradient of the batch's mean loss, both (batch, …)."""
    samples = activation.shape[0]
    of_samples = gradient.flatten(1).double() * samples  # the gradient of each sample's own loss
    channels_NC = activation.movedim(channel_axis(site.shape_kind), -1).flatten(0, -2).double()  # noqa: N806 - axes
    return SiteEvidence(
        seed_id=site.seed_id,
        gradient_norm=float(torch.linalg.vector_norm(of_samples, dim=1).mean()),
        activation_norm=float(torch.linalg.vector_norm(activation.flatten(1).double(), dim=1).mean()),
        activation_rank=effective_rank(channels_NC),
        dead_fraction=float((channels_NC.var(dim=0, correction=0) < DEAD_VARIANCE).double().mean()),
        descent=float(gradient.double().square().sum()),
    )


def effective_rank(values_NC: Tensor) -> float:  # noqa: N803 - axes in the name
    """The effective rank of values of shape (samples, channels): exp of the entropy of the singular values' shares.

    From 1 (all channels move together) to the number of channels; 0 where nothing varies. Source: Roy and Vetterli,
    "The effective rank", 2007.
    """
    centred = values_NC - values_NC.mean(dim=0)
    singular = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0.0).sqrt()
    total = float(singular.sum())
    if total < 1e-12:
        return 0.0
    shares = singular / total
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))
