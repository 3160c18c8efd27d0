"""Extra passes of the host: a seed's own in TRAINING, probe losses with and without a seed, the evidence of each site.

None leaves a trace in the host. It runs on parameters without gradient and on copies of its buffers, and everything
random draws from another stream: host gradients, running statistics and random numbers are bit for bit what they are
without the pass.

In TRAINING the seed learns from a pass of its own (ruling 7): the batch is forwarded once more with the seed mixed in
at its target alpha, and the loss's gradient is taken for the seed's parameters only. The straight-through trick, where
the seed's effect is cancelled in the forward, is measured to fail, because the seed never sees its own effect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from contracts.leyline.v1.event_pb2 import SiteDescription, SiteEvidence
from contracts.leyline.v1.leyline_pb2 import TELEMETRY_LEVEL_WARNING
from esper.kasmina.candidates import own_channels, residual_descent, wider, wider_descent
from esper.kasmina.gates import Loss
from esper.kasmina.graft import Grafts, on_borrowed
from esper.kasmina.seed import Slot
from esper.kasmina.sites import (
    Stream,
    activation_of,
    channel_axis,
    device_of,
    drawing_from,
    evaluating,
    with_activation,
)

Closure = Callable[[], Tensor]
"""Runs the host on a batch and gives its mean loss, a tensor without axes; called again, it does the same again."""
DEAD_VARIANCE: Final = 1e-8
"""A channel whose activation varies less over the probe batch counts as dead."""


@dataclass(frozen=True, slots=True)
class SidePassResult:
    """What a side pass did. `learnt` is False where the seed failed, leaked, or its loss was not finite."""

    seed_id: str
    loss: float
    gradient_norm: float
    learnt: bool


@dataclass(frozen=True, slots=True)
class Share:
    """What a batch's gradient is of a step's: its `weight`, whether it is added to what is `there`, and a loss `scale`.

    Half precision needs a loss that is larger than it is; the gradient that is kept is of the loss itself.
    """

    weight: float = 1.0
    there: bool = False
    scale: float = 1.0


WHOLE: Final = Share()


def run_side_pass(slot: Slot, grafts: Grafts, closure: Closure, share: Share = WHOLE) -> SidePassResult:
    """Set `.grad` of the parameters of the slot's seed, which is in TRAINING, from one pass over a batch.

    The seed's own buffers and stream move on; nothing else does. A pass that fails leaves its gradients None.
    """
    seed = slot.occupant()
    parameters = [parameter for parameter in seed.module.parameters() if parameter.requires_grad]
    failures = seed.forward_errors + slot.violations
    with drawing_from(seed.stream), grafts.passing(slot, learner=slot), torch.enable_grad():
        loss = on_borrowed(grafts.host, closure)
    seed.side_loss = float(loss.detach())
    for parameter in parameters if not share.there else ():
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
    if share == WHOLE:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    else:
        scaled = torch.autograd.grad(loss * (share.weight * share.scale), parameters, allow_unused=True)
        gradients = tuple(None if each is None else each / share.scale for each in scaled)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        before = parameter.grad if share.there else None
        parameter.grad = gradient if before is None or gradient is None else before + gradient
    present = [parameter.grad for parameter in parameters if parameter.grad is not None]
    seed.gradient_norm = float(nn.utils.get_total_norm(present))
    return SidePassResult(slot.seed_id, seed.side_loss, seed.gradient_norm, learnt=True)


def gather_evidence(
    sites: Sequence[SiteDescription],
    grafts: Grafts,
    closure: Closure,
    *,
    free: Collection[str] = (),
) -> list[SiteEvidence]:
    """The evidence of every site, in the order of `sites`, on the batch of `closure`; live seeds are part of the host.

    A candidate is tried at the sites of the seed ids in `free`: theirs have a `candidate_descent`.
    """
    host = grafts.host
    activations: dict[str, Tensor] = {}
    tried = [site for site in sites if site.seed_id in free and site.HasField("width")]
    widened = {seed_id for site in tried for seed_id in (site.seed_id, *site.width.between)}

    def capture(seed_id: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(_site: nn.Module, _inputs: Any, output: Any) -> Any:
            h = activation_of(output)
            kept = h if h.requires_grad else h.detach().requires_grad_()
            activations[seed_id] = kept
            return with_activation(output, kept.clone())  # what follows may work in place, which a leaf does not allow

        return hook

    with ExitStack() as stack:
        for site in sites:
            handle = host.get_submodule(site.site).register_forward_hook(capture(site.seed_id))
            stack.callback(handle.remove)
        stack.enter_context(evaluating(host))
        stack.enter_context(grafts.passing(traceless=True))
        stack.enter_context(drawing_from(Stream(0, device_of(host))))
        outgoing = stack.enter_context(wider(host, tried))
        stack.enter_context(torch.enable_grad())
        loss = on_borrowed(host, closure)
        found = [activations[site.seed_id] for site in sites]
        gradients = torch.autograd.grad(loss, [*found, *outgoing.values()], allow_unused=True)
    of_candidates = dict(zip(outgoing, gradients[len(found) :], strict=True))
    rows = []
    for site, whole, pull in zip(sites, found, gradients[: len(found)], strict=True):
        figures = whole.detach(), torch.zeros_like(whole) if pull is None else pull
        activation, gradient = (own_channels(site, each) if site.seed_id in widened else each for each in figures)
        row = _evidence(site, activation, gradient)
        if (of_candidate := of_candidates.get(site.seed_id)) is not None:
            row.candidate_descent = wider_descent(site, of_candidate)
        elif site.seed_id in free and not site.HasField("width"):
            row.candidate_descent = residual_descent(site, activation, gradient)
        rows.append(row)
    return rows


def _evidence(site: SiteDescription, activation: Tensor, gradient: Tensor) -> SiteEvidence:
    """The figures of one site from its activation and the gradient of the batch's mean loss, both (batch, …)."""
    samples = activation.shape[0]
    of_samples = gradient.flatten(1).double() * samples  # the gradient of each sample's own loss
    channels_NC = activation.movedim(channel_axis(site.shape_kind), -1).flatten(0, -2).double()  # noqa: N806 - axes
    if site.width.sections > 1:  # of attention the values: its heads hand on nothing else
        channels_NC = channels_NC.chunk(site.width.sections, dim=1)[-1]  # noqa: N806 - axes
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


class Probing:
    """Probe losses of one epoch end: as the network is, without a seed, and with one tried at its target alpha."""

    def __init__(self, probe: Callable[[], Loss], grafts: Grafts) -> None:
        self._probe = probe
        self._grafts = grafts
        self._as_is: Loss | None = None

    def as_is(self) -> Loss:
        """The network as it stands; measured once, and again after `changed`."""
        if self._as_is is None:
            self._as_is = self._probe()
        return self._as_is

    def changed(self) -> None:
        """The network is not what it was."""
        self._as_is = None

    def without(self, slot: Slot) -> Loss:
        """With the slot's seed at alpha 0."""
        with self._grafts.passing(without=(slot,)):
            return self._probe()

    def trial(self, slot: Slot) -> Loss:
        """With the slot's seed, which is not mixed in yet, at its target alpha."""
        with self._grafts.passing(slot, trial=slot):
            return self._probe()
