"""BP006 batch_norm_1d: s = gain * (h - mean) / sqrt(variance + 1e-5) + shift, both over the batch, for each feature.

While training they are the batch's own and move the running ones: running <- momentum * running + (1 - momentum) * new
(momentum is the share that is kept, as its bounds mean it; PyTorch's `momentum` is the other share). Otherwise, and for
a batch of a single place, the running ones are used. An image is one long row of pixels, which is what makes it "1d".
Tokens are not served: statistics over a whole text tell each token of those after it.
Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, SeedModule, Setting, Settings, SiteShape
from esper.karn.layers import OwnStart


class BatchNorm(OwnStart, SeedModule):
    """Each feature with mean 0 and variance 1 over the batch, then scaled and shifted. Not residual."""

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, site: SiteShape, momentum: float) -> None:
        super().__init__()
        self.keep = momentum
        self.gain = nn.Parameter(torch.empty(site.features))
        self.shift = nn.Parameter(torch.empty(site.features))
        self.register_buffer("running_mean", torch.empty(site.features))
        self.register_buffer("running_variance", torch.empty(site.features))

    def start(self, generator: torch.Generator) -> None:  # noqa: ARG002  (nothing here is drawn)
        """Scale and variance one, shift and mean zero."""
        self.gain.fill_(1.0)
        self.shift.fill_(0.0)
        self.running_mean.fill_(0.0)
        self.running_variance.fill_(1.0)

    def forward(self, h: Tensor) -> Tensor:
        """The normalised activation; same shape, (B, F) or (B, C, H, W)."""
        alone = h.numel() == h.shape[1]
        return functional.batch_norm(
            h,
            self.running_mean,
            self.running_variance,
            self.gain,
            self.shift,
            training=self.training and not alone,
            momentum=1.0 - self.keep,
        )


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return BatchNorm(site, settings["momentum"])


BLUEPRINT = Blueprint(
    blueprint_id="BP006",
    name="batch_norm_1d",
    stage=0,
    risk=0.2,
    kinds=("vector", "image"),
    settings=(Setting("momentum", 0.5, 0.99, default=0.9),),
    tags=("norm",),
    make=make,
    description="batch normalisation of each feature",
)
