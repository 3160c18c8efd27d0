"""Elementary blueprints: identity, linear map, norms, activations, dropout, scaling by place, pooling, positions.

Most are not residual: they replace the activation, so they are blended as what they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Settings, ShapeKind, SiteShape
from esper.karn.layers import OwnStart, Residual, Scaled, SeedModule, ZeroLinear, from_places, norm, zero_pointwise

POSITION_RATES = 8


def identity_passthrough(_site: SiteShape, _settings: Settings) -> SeedModule:
    """BP001: s = h. It learns nothing and costs nothing: a lifecycle without a module."""
    return Identity()


class Identity(SeedModule):
    """The activation itself."""

    residual = True

    def forward(self, h: Tensor) -> Tensor:
        """The same tensor."""
        return h


def linear_projection(site: SiteShape, settings: Settings) -> SeedModule:
    """BP002: s = h + scale * (W h + b), W and b starting at zero; over an image a 1x1 convolution.

    `scale` multiplies the step that the projection takes, the output scaling of Szegedy et al. 2016, arXiv:1602.07261,
    3.3.
    """
    return Residual(Scaled(zero_pointwise(site.kind, site.features, site.features), settings["scale"]))


def layer_norm_basic(site: SiteShape, settings: Settings) -> SeedModule:
    """BP003: s = gain * (h - mean) / sqrt(variance + epsilon) + shift, over the features of each place.

    Not residual: it replaces the activation, so it is blended as what it is. Source: Ba et al. 2016, arXiv:1607.06450.
    """
    return Norm(site, settings["epsilon"])


class Norm(SeedModule):
    """LayerNorm over the features of each vector, token or pixel."""

    def __init__(self, site: SiteShape, epsilon: float) -> None:
        super().__init__()
        self.norm = norm(site.kind, site.features, epsilon)

    def forward(self, h: Tensor) -> Tensor:
        """The normalised activation; same shape."""
        out: Tensor = self.norm(h)
        return out


def dropout_light(site: SiteShape, settings: Settings) -> SeedModule:
    """BP004: s = h * m / (1 - dropout), m zero with probability `dropout` while training; s = h otherwise.

    Features are dropped one by one in vectors and tokens, whole channels in images, because neighbouring pixels say
    nearly the same. No parameters and not residual: it changes what the next layer sees from the first step on.
    Source: Srivastava et al. 2014, JMLR 15, section 4; whole channels: Tompson et al. 2015, arXiv:1411.4280, section
    3.2.
    """
    return Dropout(site, settings["dropout"])


class Dropout(SeedModule):
    """The activation with a share of it switched off; draws from the stream that is current when it runs."""

    def __init__(self, site: SiteShape, dropout: float) -> None:
        super().__init__()
        self.image = site.kind == "image"
        self.dropout = dropout

    def forward(self, h: Tensor) -> Tensor:
        """What is left, scaled so that its mean stays; same shape."""
        drop = functional.dropout2d if self.image else functional.dropout
        return drop(h, self.dropout, training=self.training)


def relu_activation(_site: SiteShape, _settings: Settings) -> SeedModule:
    """BP005: s = max(h, 0). No parameters and not residual. Source: Nair and Hinton 2010."""
    return Relu()


class Relu(SeedModule):
    """The positive part."""

    def forward(self, h: Tensor) -> Tensor:
        """Elementwise; same shape."""
        return functional.relu(h)


def gelu_activation(_site: SiteShape, _settings: Settings) -> SeedModule:
    """BP011: s = h * Phi(h), Phi the normal distribution function. No parameters and not residual.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    return Gelu()


class Gelu(SeedModule):
    """The activation, gated by its own size."""

    def forward(self, h: Tensor) -> Tensor:
        """Elementwise; same shape."""
        return functional.gelu(h)


def batch_norm_1d(site: SiteShape, settings: Settings) -> SeedModule:
    """BP006: s = gain * (h - mean) / sqrt(variance + 1e-5) + shift, both over the batch, for each feature.

    While training they are the batch's own and move the running ones: running <- momentum * running + (1 - momentum) *
    new (momentum is the share that is kept, as its bounds mean it; PyTorch's `momentum` is the other share). Otherwise,
    and for a batch of a single place, the running ones are used. An image is one long row of pixels, which is what
    makes it "1d". Tokens are not served: statistics over a whole text tell each token of those after it.
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1.
    """
    return BatchNorm(site, settings["momentum"])


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


def pooling_max(site: SiteShape, settings: Settings) -> SeedModule:
    """BP007: s = the largest value in a window around each pixel, or in the `kernel` tokens up to each token.

    Stride one, so the shape stays; beyond the border there is nothing that could be the largest. No parameters and not
    residual. A vector has no neighbours. Source: Ranzato et al. 2007 (CVPR), section 3; LeCun et al. 1998, section II.
    """
    return MaxPool(site, int(settings["kernel"]))


class MaxPool(SeedModule):
    """The largest of each neighbourhood."""

    def __init__(self, site: SiteShape, kernel: int) -> None:
        super().__init__()
        self.image = site.kind == "image"
        self.kernel = kernel

    def forward(self, h: Tensor) -> Tensor:
        """Same shape; an even window reaches one pixel further behind than before."""
        before, behind = (self.kernel - 1) // 2, self.kernel // 2
        if self.image:
            padded = functional.pad(h, (before, behind, before, behind), value=-math.inf)
            return functional.max_pool2d(padded, self.kernel, stride=1)
        padded = functional.pad(h.transpose(1, 2), (self.kernel - 1, 0), value=-math.inf)
        return functional.max_pool1d(padded, self.kernel, stride=1).transpose(1, 2)


def adaptive_pooling(site: SiteShape, settings: Settings) -> SeedModule:
    """BP026: s = h + W gelu(norm(up(pool(h)))), W starting at zero: each place learns of its region.

    An image is averaged down to at most `output_size` by `output_size` regions and drawn up again bilinearly. Tokens
    are cut into at most `output_size` segments of nearly equal length, and each token gets the mean of its segment up
    to itself. A vector has no regions. Source: Zhao et al. 2017 (pyramid pooling), arXiv:1612.01105, section 3.2.
    """
    size = int(settings["output_size"])
    pool = RegionMean(size) if site.kind == "image" else SegmentMean(size)
    features = site.features
    return Residual(
        nn.Sequential(pool, norm(site.kind, features), nn.GELU(), zero_pointwise(site.kind, features, features))
    )


class RegionMean(nn.Module):
    """Pixels (B, C, H, W) replaced by what their regions are on average; same shape."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        """Averaged and interpolated; the activation itself where it has no more pixels than regions."""
        height, width = h.shape[2:]
        regions = functional.adaptive_avg_pool2d(h, (min(self.size, height), min(self.size, width)))
        return functional.interpolate(regions, size=(height, width), mode="bilinear", align_corners=False)


class SegmentMean(nn.Module):
    """Tokens (B, T, F) replaced by the mean of their segment up to themselves; same shape."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, h: Tensor) -> Tensor:
        """A difference of cumulative sums, so that no token sees a later one."""
        tokens = h.shape[1]
        segments = min(self.size, tokens)
        index = torch.arange(tokens, device=h.device)
        segment = index * segments // tokens
        start = (segment * tokens + segments - 1) // segments
        sums = functional.pad(h.cumsum(dim=1), (0, 0, 1, 0))
        count = (index - start + 1).to(h.dtype).unsqueeze(-1)
        return (sums[:, 1:] - sums[:, start]) / count


def learned_positional(site: SiteShape, settings: Settings) -> SeedModule:
    """BP035: s = h + W [sin(r . p), cos(r . p)], p the place's row and column or its token's number.

    Eight rates r for each axis are learned; they start at `frequency` radians a place, each half the one before. W
    starts at zero. A vector has no places. Source: Li et al. 2021 (learnable Fourier features), arXiv:2106.02795,
    equation 2; rates that start in a geometric series: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    return Residual(Positions(site, settings["frequency"]))


class Positions(OwnStart):
    """The branch: says to each place where it is, and nothing about what is there."""

    def __init__(self, site: SiteShape, frequency: float) -> None:
        super().__init__()
        axes = 2 if site.kind == "image" else 1
        self.kind: ShapeKind = site.kind
        self.frequency = frequency
        self.rates = nn.Parameter(torch.empty(axes, POSITION_RATES))
        self.project = ZeroLinear(2 * axes * POSITION_RATES, site.features)

    def start(self, generator: torch.Generator) -> None:  # noqa: ARG002  (nothing here is drawn)
        """The geometric series on every axis."""
        halvings = torch.arange(POSITION_RATES, dtype=self.rates.dtype)
        self.rates.copy_((self.frequency * 0.5**halvings).expand_as(self.rates))

    def forward(self, h: Tensor) -> Tensor:
        """The same for every sample; same shape as the activation."""
        places = self._places(h)
        phases = (places.unsqueeze(-1) * self.rates).flatten(1)
        said = self.project(torch.cat([phases.sin(), phases.cos()], dim=-1))
        return from_places(self.kind, said.expand(h.shape[0], -1, -1), h)

    def _places(self, h: Tensor) -> Tensor:
        """(P, axes), in pixels or tokens."""
        sizes = h.shape[2:] if self.kind == "image" else h.shape[1:2]
        axes = [torch.arange(size, device=h.device, dtype=h.dtype) for size in sizes]
        return torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).flatten(0, -2)
