"""Residual networks with GroupNorm, with three blocks or with the places for them: hosts of `digits` and `cifar10`.

GroupNorm instead of BatchNorm: no running statistics, so a forward pass leaves no trace in the host.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


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
