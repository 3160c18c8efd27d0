"""The networks of the built-in tasks: an MLP, two small residual networks, a decoder-only Transformer.

GroupNorm instead of BatchNorm: no running statistics, so a forward pass leaves the host as it was. The `*_sites`
functions name where each of them can grow: modules behind its parts, and units in its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.kasmina.sites import Site


class MLP(nn.Module):
    """Inputs of shape (B, inputs) to logits (B, classes); `layers.<i>` are the hidden layers and the sites.

    Each is a linear layer and an `activation`, tanh where nothing is said.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], classes: int, activation: Callable[[], nn.Module] = nn.Tanh
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(fan_in, fan_out), activation()) for fan_in, fan_out in pairwise((inputs, *widths))
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, classes) of inputs (B, inputs)."""
        hidden = inputs
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.head(hidden)
        return logits


def mlp_widths(params: int, *, inputs: int, classes: int, depth: int) -> list[int]:
    """Hidden widths of the MLP whose parameter count is nearest to `params`; layers differ by one unit at most."""

    def count(units: int) -> int:
        widths = _spread(units, depth)
        return sum((a + 1) * b for a, b in pairwise((inputs, *widths, classes)))

    units = depth
    while abs(count(units + 1) - params) <= abs(count(units) - params):
        units += 1
    return _spread(units, depth)


def _spread(units: int, depth: int) -> list[int]:
    return [units // depth + (layer < units % depth) for layer in range(depth)]


class ResidualBlock(nn.Module):
    """Activations (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(1, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(1, channels_out)
        self.shortcut: nn.Module = (
            nn.Identity()
            if channels_in == channels_out and stride == 1
            else nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """The block's activation, never negative."""
        hidden = functional.relu(self.norm1(self.conv1(inputs)))
        return functional.relu(self.norm2(self.conv2(hidden)) + self.shortcut(inputs))


class ResNetLite(nn.Module):
    """Images (B, C, H, W), float in 0..1 or uint8, to logits (B, classes); `blocks.<i>` are the sites.

    `narrow` channels in the stem and the first block, `wide` in the other two (twice as many by default).
    """

    def __init__(self, image_channels: int, narrow: int, classes: int, wide: int | None = None) -> None:
        super().__init__()
        wide = 2 * narrow if wide is None else wide
        self.stem = nn.Conv2d(image_channels, narrow, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(1, narrow)
        self.blocks = nn.Sequential(
            ResidualBlock(narrow, narrow, 1), ResidualBlock(narrow, wide, 2), ResidualBlock(wide, wide, 1)
        )
        self.head = nn.Linear(wide, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        if images.dtype == torch.uint8:
            images = images.to(self.stem.weight.dtype) / 255
        hidden = self.blocks(functional.relu(self.norm(self.stem(images))))
        logits: Tensor = self.head(hidden.mean(dim=(2, 3)))
        return logits


def resnet_sites() -> tuple[Site, ...]:
    """Behind each block, and between its two convolutions; what a block gives is added up, so it keeps its width."""
    blocks = [f"blocks.{block}" for block in range(3)]
    wide = [Site(f"{block}.conv1", "image", consumer=f"{block}.conv2") for block in blocks]
    return (*(Site(block, "image") for block in blocks), *wide)


class BlocklessResNet(nn.Module):
    """Images (B, C, H, W), float in 0..1, to logits (B, classes): a residual network whose blocks are yet to grow.

    A stem, empty places for three blocks (`blocks.<i>`, the sites), and a linear head over 2 by 2 pooled activations.
    """

    def __init__(self, image_channels: int, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(image_channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(1, channels)
        self.blocks = nn.Sequential(*(nn.Identity() for _ in range(3)))
        self.head = nn.Linear(4 * channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        hidden = self.blocks(functional.relu(self.norm(self.stem(images))))
        logits: Tensor = self.head(functional.adaptive_avg_pool2d(hidden, 2).flatten(1))
        return logits


def blockless_sites() -> tuple[Site, ...]:
    """The three empty places, and the channels of the stem, which pass through them to the head."""
    return (*(Site(f"blocks.{block}", "image") for block in range(3)), Site("stem", "image", consumer="head"))


def blockless_channels(params: int, *, image_channels: int, classes: int) -> int:
    """Channels of the BlocklessResNet whose parameter count is nearest to `params`, 1 at least."""
    return max(1, round((params - classes) / (9 * image_channels + 2 + 4 * classes)))


def resnet_widths(params: int, *, image_channels: int, classes: int) -> tuple[int, int]:
    """(narrow, wide) of the ResNetLite whose parameter count is nearest to `params`, narrow <= wide <= 3 narrow."""

    def count(narrow: int, wide: int) -> int:
        convolutions = 9 * (image_channels * narrow + 2 * narrow * narrow + narrow * wide + 3 * wide * wide)
        shortcuts = narrow * wide
        norms = 6 * narrow + 8 * wide
        return convolutions + shortcuts + norms + (wide + 1) * classes

    candidates = [(narrow, wide) for narrow in range(1, 129) for wide in range(narrow, 3 * narrow + 1)]
    return min(candidates, key=lambda pair: (abs(count(*pair) - params), abs(pair[1] - 2 * pair[0])))


class TransformerBlock(nn.Module):
    """Tokens (B, T, D) to tokens (B, T, D): causal self-attention and a GELU layer, both residual."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.head_size = width // heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens_BTD: Tensor) -> Tensor:  # noqa: N803 (axes: batch, token, feature)
        """The block's activation, the input plus what attention and the GELU layer add."""
        batch, length, _ = tokens_BTD.shape
        # As many heads as the layer gives: it may have grown some.
        qkv = self.qkv(self.norm1(tokens_BTD)).view(batch, length, 3, -1, self.head_size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        tokens_BTD = tokens_BTD + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))  # noqa: N806
        refined: Tensor = tokens_BTD + self.down(functional.gelu(self.up(self.norm2(tokens_BTD))))
        return refined


class TransformerLite(nn.Module):
    """Symbol ids (B, T) to logits (B, T, vocabulary); `embedding` and `blocks.<i>` are the sites.

    Raises ValueError where `width` is no multiple of `heads`.
    """

    def __init__(self, vocabulary: int, context: int, width: int, blocks: int, *, heads: int, hidden: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared among {heads} heads")
        self.embedding = Embedding(vocabulary, context, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, hidden) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, vocabulary) of symbol ids (B, T)."""
        logits: Tensor = self.head(self.norm(self.blocks(self.embedding(ids))))
        return logits


class Embedding(nn.Module):
    """Symbol ids (B, T) to the sum of symbol and position vectors (B, T, D)."""

    def __init__(self, vocabulary: int, context: int, width: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(context, width))
        nn.init.normal_(self.symbols.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (B, T, D) of symbol ids (B, T)."""
        embedded: Tensor = self.symbols(ids) + self.positions[: ids.shape[1]]
        return embedded


def transformer_hidden(params: int, *, vocabulary: int, context: int, width: int, blocks: int) -> int:
    """Units of each block's GELU layer that bring a TransformerLite nearest to `params` parameters, 1 at least."""
    attention_and_norms = blocks * (4 * width * (width + 1) + 4 * width + width)
    rest = width * (vocabulary + context) + 2 * width + (width + 1) * vocabulary
    return max(1, round((params - attention_and_norms - rest) / (blocks * (2 * width + 1))))
