"""What templates are made of: the seed module's base classes, layers, views of a site as places, initialisation.

Axes: B batch, P places, T tokens, F features, C channels, H height, W width. Over tokens every layer is causal: the
catalogue cannot know the host's attention mask, and a seed that looks ahead would read the answer of a next-token task.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Settings, ShapeKind, SiteShape, WidthShape


class SeedModule(nn.Module):
    """A seed's module: maps an activation h to s of the same shape, with the batch axis first.

    `residual` says that s(h) = h at the start, so that blending it in changes nothing until it has learnt something.
    """

    residual: bool = False


class Residual(SeedModule):
    """s = h + f(h). The branch f ends in a projection that starts at zero, so growth begins function-preserving."""

    residual = True

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, h: Tensor) -> Tensor:
        """The activation plus what the branch adds to it; same shape."""
        added: Tensor = self.branch(h)
        return h + added


class Stack(SeedModule):
    """Residual modules one after the other; the identity at the start because each of them is."""

    residual = True

    def __init__(self, blocks: Sequence[Residual]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, h: Tensor) -> Tensor:
        """The activation after the last of them; same shape."""
        out: Tensor = self.blocks(h)
        return out


Place = TypeVar("Place", SiteShape, WidthShape)
Make = Callable[[Place, Settings], SeedModule]


class OwnStart(nn.Module, ABC):
    """A layer that fills its own parameters and buffers; `initialise` asks it to."""

    @abstractmethod
    def start(self, generator: torch.Generator) -> None:
        """Fill everything that this layer itself holds, drawing from `generator` alone."""


class Table(OwnStart):
    """A learned tensor that starts uniform within `bound`: memories, embeddings, stacked weights of experts."""

    def __init__(self, *shape: int, bound: float) -> None:
        super().__init__()
        self.bound = bound
        self.values = nn.Parameter(torch.empty(shape))

    def start(self, generator: torch.Generator) -> None:
        """Uniform within the bound."""
        self.values.uniform_(-self.bound, self.bound, generator=generator)

    def forward(self) -> Tensor:
        """The tensor itself."""
        return self.values


class ZeroLinear(nn.Linear):
    """A linear map that starts at zero."""


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts at zero."""


class Scaled(nn.Module):
    """A branch times a constant: y = factor * branch(h)."""

    def __init__(self, branch: nn.Module, factor: float) -> None:
        super().__init__()
        self.branch = branch
        self.factor = factor

    def forward(self, h: Tensor) -> Tensor:
        """Shape as the branch's output."""
        out: Tensor = self.branch(h)
        return self.factor * out


class SameConv2d(nn.Conv2d):
    """A convolution (B, C, H, W) -> (B, C', H, W) that keeps height and width for odd and even kernels."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int | tuple[int, int], *, groups: int = 1, dilation: int = 1
    ) -> None:
        super().__init__(channels, out_channels, kernel, groups=groups, dilation=dilation)
        down, across = (dilation * (taps - 1) for taps in self.kernel_size)
        self.margin = (across // 2, across - across // 2, down // 2, down - down // 2)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that nn.Conv2d gives it)
        """Padded with zeros on both sides, one more behind where the kernel is even."""
        return super().forward(functional.pad(input, self.margin))


class CausalConv(nn.Conv1d):
    """A convolution over tokens (B, T, F) -> (B, T, F') where a token sees itself and dilation * (kernel - 1) back."""

    def __init__(self, features: int, out_features: int, kernel: int, *, groups: int = 1, dilation: int = 1) -> None:
        super().__init__(features, out_features, kernel, groups=groups, dilation=dilation)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that nn.Conv1d gives it)
        """Padded with zeros before the first token."""
        reach = self.dilation[0] * (self.kernel_size[0] - 1)
        padded = functional.pad(input.transpose(1, 2), (reach, 0))
        return super().forward(padded).transpose(1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel: (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that nn.LayerNorm gives it)
        """Each pixel with mean 0 and variance 1 over its channels, then scaled and shifted per channel."""
        # Written out and not by way of a moved axis: that would hand gradients on with strides that a 3x3 convolution's
        # weights do not have, and PyTorch warns of those.
        variance, mean = torch.var_mean(input, dim=1, keepdim=True, correction=0)
        normed = (input - mean) * torch.rsqrt(variance + self.eps)
        return normed * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


def pointwise(kind: ShapeKind, features: int, out_features: int) -> nn.Module:
    """A linear map over features, the same at every token or pixel."""
    return nn.Conv2d(features, out_features, 1) if kind == "image" else nn.Linear(features, out_features)


def zero_pointwise(kind: ShapeKind, features: int, out_features: int) -> nn.Module:
    """As `pointwise`, starting at zero: the last projection of a residual branch."""
    return ZeroConv2d(features, out_features, 1) if kind == "image" else ZeroLinear(features, out_features)


def local(
    kind: ShapeKind, features: int, out_features: int, kernel: int, *, groups: int = 1, dilation: int = 1
) -> nn.Module:
    """A convolution over pixels or, causally, over tokens; over a vector, without neighbours, a map by groups."""
    if kind == "image":
        return SameConv2d(features, out_features, kernel, groups=groups, dilation=dilation)
    if kind == "token":
        return CausalConv(features, out_features, kernel, groups=groups, dilation=dilation)
    return GroupedLinear(features, out_features, groups)


def norm(kind: ShapeKind, features: int, epsilon: float = 1e-5) -> nn.Module:
    """LayerNorm over the features of each vector, token or pixel."""
    return ChannelNorm(features, eps=epsilon) if kind == "image" else nn.LayerNorm(features, eps=epsilon)


class GroupedLinear(nn.Conv1d):
    """A block-diagonal linear map (B, F) -> (B, F'): each group of features sees only itself."""

    def __init__(self, features: int, out_features: int, groups: int) -> None:
        super().__init__(features, out_features, 1, groups=groups)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that nn.Conv1d gives it)
        """A convolution of length one is a linear map by groups."""
        return super().forward(input.unsqueeze(-1)).squeeze(-1)


def divisor(features: int, wanted: int) -> int:
    """The largest number of groups up to `wanted` that divides `features`."""
    return max(groups for groups in range(1, wanted + 1) if features % groups == 0)


def to_places(kind: ShapeKind, h: Tensor) -> Tensor:
    """The activation as (B, P, F): pixels row by row, tokens as they are, a vector as a single place."""
    if kind == "image":
        return h.flatten(2).transpose(1, 2)
    return h if kind == "token" else h.unsqueeze(1)


def from_places(kind: ShapeKind, places: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_places` for an activation with the shape of `like`."""
    if kind == "image":
        return places.transpose(1, 2).reshape(like.shape)
    return places if kind == "token" else places.squeeze(1)


def running_mean(h: Tensor) -> Tensor:
    """The mean over each token and all before it; axes after the second may be any."""
    trailing = (1,) * (h.dim() - 2)
    seen = torch.arange(1, h.shape[1] + 1, device=h.device, dtype=h.dtype).view(-1, *trailing)
    return h.cumsum(dim=1) / seen


def squeeze(kind: ShapeKind, h: Tensor) -> Tensor:
    """What a site says as a whole: the mean pixel (B, C, 1, 1), for each token the mean so far, the vector itself."""
    if kind == "image":
        return h.mean(dim=(2, 3), keepdim=True)
    return running_mean(h) if kind == "token" else h


def block_means(h: Tensor, size: int) -> Tensor:
    """The means of the whole blocks of `size` tokens, (B, T // size, F); what is left over at the end is in none."""
    blocks = h.shape[1] // size
    whole = torch.unflatten(h[:, : blocks * size], 1, (blocks, size))
    return whole.mean(dim=2)


def sees_block(tokens: int, size: int, device: torch.device) -> Tensor:
    """Which token may look at which block mean, (T, T // size): at blocks whose last token is not after it."""
    last = torch.arange(1, tokens // size + 1, device=device) * size - 1
    return torch.arange(tokens, device=device).unsqueeze(1) >= last


def earlier(h: Tensor, count: int) -> Tensor:
    """Each token with the `count - 1` before it, oldest first, (B, T, F, count); zeros before the first token."""
    return functional.pad(h, (0, 0, count - 1, 0)).unfold(1, count, 1)


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Fill every parameter and buffer of `module`, drawing from `generator` alone and in module order.

    Weights and biases of linear maps and convolutions: uniform within 1 / sqrt(fan in), PyTorch's own default; the
    `Zero...` layers: zero; norms: scale one, shift zero; an `OwnStart` as it says; whatever else holds parameters or
    buffers of its own starts at zero.
    """
    for layer in module.modules():
        if isinstance(layer, OwnStart):
            layer.start(generator)
        elif isinstance(layer, ZeroLinear | ZeroConv2d):
            _fill(layer, 0.0)
        elif isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            bound = 1.0 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters(recurse=False):
                parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(layer, nn.LayerNorm):
            layer.reset_parameters()
        else:
            _fill(layer, 0.0)


def _fill(layer: nn.Module, value: float) -> None:
    for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
        tensor.fill_(value)
