"""Multi-head self-attention over tokens or pixels, starting at zero: the branch of every attention template.

softmax(Q K^T / sqrt(d)) V, then a projection that starts at zero. Source: Vaswani et al. 2017, arXiv:1706.03762.
The heads' width d is features // heads (at least 1), so the heads need not divide the features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import SiteShape
from esper.karn.layers import ZeroLinear


class TokenAttention(nn.Module):
    """Causal self-attention (B, T, F) -> (B, T, F): a token sees itself and the `window - 1` tokens before it."""

    def __init__(self, features: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        inner = heads * max(1, features // heads)
        self.norm = nn.LayerNorm(features)
        self.query_key_value = nn.Linear(features, 3 * inner)
        self.project = ZeroLinear(inner, features)

    def forward(self, h: Tensor) -> Tensor:
        """What attention adds to each token."""
        batch, tokens, _ = h.shape
        query, key, value = (
            self.query_key_value(self.norm(h)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        if tokens <= self.window:
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            near = torch.ones(tokens, tokens, dtype=torch.bool, device=h.device).tril().triu(1 - self.window)
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=near)
        out: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return out


class PixelAttention(nn.Module):
    """Self-attention over pixels (B, C, H, W) -> (B, C, H, W); keys are averaged down to at most `window` places."""

    def __init__(self, features: int, heads: int, window: int, height: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        side = math.isqrt(window)
        self.key_size = (height, width) if height * width <= window else (min(side, height), min(side, width))
        inner = heads * max(1, features // heads)
        self.norm = nn.LayerNorm(features)
        self.query = nn.Linear(features, inner)
        self.key_value = nn.Linear(features, 2 * inner)
        self.project = ZeroLinear(inner, features)

    def forward(self, h: Tensor) -> Tensor:
        """What attention adds to each pixel."""
        batch, channels, height, width = h.shape
        places = functional.adaptive_avg_pool2d(h, self.key_size).flatten(2).transpose(1, 2)
        pixels = h.flatten(2).transpose(1, 2)
        query = self.query(self.norm(pixels)).view(batch, height * width, self.heads, -1).transpose(1, 2)
        both = self.key_value(self.norm(places)).view(batch, places.shape[1], 2, self.heads, -1)
        key, value = both.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, height * width, -1))
        return out.transpose(1, 2).reshape(batch, channels, height, width)


class CrossAttention(nn.Module):
    """Queries (B, Q, F) read from a context (B, K, F): softmax(Q K^T / sqrt(d)) V, projected; both are normed first.

    `starts_at_zero` says whether that last projection does.
    """

    def __init__(self, features: int, heads: int, *, starts_at_zero: bool) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * max(1, features // heads)
        self.query_norm = nn.LayerNorm(features)
        self.context_norm = nn.LayerNorm(features)
        self.query = nn.Linear(features, inner)
        self.key_value = nn.Linear(features, 2 * inner)
        self.project = (ZeroLinear if starts_at_zero else nn.Linear)(inner, features)

    def forward(self, reader: Tensor, context: Tensor, visible: Tensor | None = None) -> Tensor:
        """What each query reads, (B, Q, F); `visible` (Q, K) says what it may look at, everything by default."""
        query = self.query(self.query_norm(reader)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        both = self.key_value(self.context_norm(context)).unflatten(-1, (2, self.heads, -1))
        key, value = both.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        out: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return out


def attention(site: SiteShape, heads: int, window: int = 256) -> nn.Module:
    """The attention branch for a token or image site."""
    if site.kind == "token":
        return TokenAttention(site.features, heads, window)
    _, height, width = site.shape
    return PixelAttention(site.features, heads, window, height, width)
