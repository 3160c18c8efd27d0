"""A site seen as a set of places: pixels, tokens, or the one place that a vector is; and what a place knows of others.

Axes: B batch, P places, T tokens, F features, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from esper.karn.blueprint import ShapeKind


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
