"""Attention among tokens or pixels: single and multi-head, cross, non-local, graph, and transformer blocks.

softmax(Q K^T / sqrt(d)) V, then a projection that starts at zero. Source: Vaswani et al. 2017, arXiv:1706.03762.
The heads' width d is features // heads (at least 1), so the heads need not divide the features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Settings, ShapeKind, SiteShape
from esper.karn.layers import (
    Residual,
    SeedModule,
    Stack,
    Table,
    ZeroLinear,
    block_means,
    earlier,
    from_places,
    local,
    norm,
    pointwise,
    sees_block,
    to_places,
    zero_pointwise,
)

LATENTS = 8
CONTEXT_BLOCK = 4
GRAPH_WINDOW = 3
SLOPE = 0.2
EXPANSION = 4


def attention_single_head(site: SiteShape, settings: Settings) -> SeedModule:
    """BP020: s = h + W attention(norm(h)) with one head, W starting at zero.

    `sequence_length` bounds what a place can see: a token sees that many tokens up to itself; over an image the keys
    are averaged down to at most that many places. Source: Vaswani et al. 2017, arXiv:1706.03762.
    """
    return Residual(attention(site, 1, int(settings["sequence_length"])))


def multi_head_attention_4(site: SiteShape, settings: Settings) -> SeedModule:
    """BP022: s = h + W attention(norm(h)) with four to six heads, W starting at zero.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
    """
    return Residual(attention(site, int(settings["heads"])))


def multi_head_attention_8(site: SiteShape, settings: Settings) -> SeedModule:
    """BP029: s = h + W attention(norm(h)) with eight to ten heads, W starting at zero.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
    """
    return Residual(attention(site, int(settings["heads"])))


def cross_attention(site: SiteShape, settings: Settings) -> SeedModule:
    """BP019: s = h + W cross(h, context), W zero at first: the site reads from a smaller sequence.

    Over an image the context is eight learned latents that have first read from all pixels (two cross-attentions). Over
    tokens it is the means of the whole blocks of four tokens so far, and a learned first entry for when there is none.
    A vector has no second sequence to read from.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3; latents: Lee et al. 2019 (Set Transformer),
    arXiv:1810.00825, equations 9 and 10; block summaries: Zhu and Soricut 2021, arXiv:2107.11906, section 4.
    """
    reader = FromLatents if site.kind == "image" else FromBlocks
    return Residual(reader(site.features, int(settings["heads"])))


class FromLatents(nn.Module):
    """Pixels (B, C, H, W) read from latents that have read from all pixels."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.latents = Table(LATENTS, features, bound=1.0)
        self.gather = CrossAttention(features, heads, starts_at_zero=False)
        self.read = CrossAttention(features, heads, starts_at_zero=True)

    def forward(self, h: Tensor) -> Tensor:
        """What each pixel reads; same shape."""
        pixels = to_places("image", h)
        # A sum and not a view: torch's FLOP counter cannot follow a view of a parameter where gradients are off.
        latents = self.latents() + h.new_zeros(h.shape[0], 1, 1)
        told = latents + self.gather(latents, pixels)
        return from_places("image", self.read(pixels, told), h)


class FromBlocks(nn.Module):
    """Tokens (B, T, F) read from the means of the blocks that are complete at that token."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.nothing_yet = Table(1, features, bound=1.0)
        self.read = CrossAttention(features, heads, starts_at_zero=True)

    def forward(self, h: Tensor) -> Tensor:
        """What each token reads; same shape."""
        first = self.nothing_yet().expand(h.shape[0], -1, -1)
        context = torch.cat([first, block_means(h, CONTEXT_BLOCK)], dim=1)
        visible = functional.pad(sees_block(h.shape[1], CONTEXT_BLOCK, h.device), (1, 0), value=True)
        out: Tensor = self.read(h, context, visible)
        return out


def non_local_block(site: SiteShape, settings: Settings) -> SeedModule:
    """BP034: s = h + W y, y_i = 1/N sum_j (theta(n_i) . phi(n_j)) g(n_j), n = norm(h), W starting at zero.

    The dot-product form, in half the features: no softmax, so a place may also subtract what it sees. Over an image the
    N places j are the largest values in at most `window` by `window` regions (the paper's subsampling); over tokens the
    `window` tokens up to i. A vector has one place. Source: Wang et al. 2018, arXiv:1711.07971, equations 1, 4 and 6.
    """
    return Residual(NonLocal(site, int(settings["window"])))


class NonLocal(nn.Module):
    """The branch over pixels or tokens; same shape."""

    def __init__(self, site: SiteShape, window: int) -> None:
        super().__init__()
        inner = max(1, site.features // 2)
        self.kind: ShapeKind = site.kind
        self.window = window
        self.norm = nn.LayerNorm(site.features)
        self.theta = nn.Linear(site.features, inner)
        self.phi = nn.Linear(site.features, inner)
        self.g = nn.Linear(site.features, inner)
        self.project = ZeroLinear(inner, site.features)

    def forward(self, h: Tensor) -> Tensor:
        """What each place makes of those that it compares itself with."""
        places = self.norm(to_places(self.kind, h))
        others = places if self.kind == "token" else self.norm(to_places("image", self._regions(h)))
        likeness = self.theta(places) @ self.phi(others).transpose(1, 2)
        seen = self.project((likeness * self._share(likeness)) @ self.g(others))
        return from_places(self.kind, seen, h)

    def _regions(self, h: Tensor) -> Tensor:
        return functional.adaptive_max_pool2d(h, (min(self.window, h.shape[2]), min(self.window, h.shape[3])))

    def _share(self, likeness: Tensor) -> Tensor:
        """1 / N for every pair that counts, 0 for the others; shape (P, N)."""
        counts = torch.ones_like(likeness[0])
        if self.kind == "token":
            counts = counts.tril().triu(1 - self.window)
        return counts / counts.sum(dim=-1, keepdim=True)


def graph_attention(site: SiteShape, settings: Settings) -> SeedModule:
    """BP030: s = h + W gelu(x_hops), x_0 = norm(h), `hops` rounds of attention along a graph's edges.

    x'_i = sum_j softmax_j(a . leaky_relu(A x_i + B x_j)) B x_j over i itself and its neighbours j. The graph is the
    grid of an image's pixels with their eight neighbours, or the chain of tokens with the two before each; so after n
    rounds a place knows of those n edges away. A vector has no edges. W starts at zero. Source: Veličković et al. 2018,
    arXiv:1710.10903, equations 1 to 4, scored as in Brody et al. 2022 (GATv2), arXiv:2105.14491, equation 7.
    """
    rounds = [layer for _ in range(int(settings["hops"])) for layer in (GraphAttention(site), nn.GELU())]
    features = site.features
    return Residual(nn.Sequential(norm(site.kind, features), *rounds, zero_pointwise(site.kind, features, features)))


class GraphAttention(nn.Module):
    """One round: each node becomes a weighted mean of itself and its neighbours; same shape."""

    def __init__(self, site: SiteShape) -> None:
        super().__init__()
        self.kind: ShapeKind = site.kind
        self.receive = pointwise(site.kind, site.features, site.features)
        self.send = pointwise(site.kind, site.features, site.features)
        self.score = nn.Linear(site.features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) or (B, T, F)."""
        receiver, sender = self.receive(x), self.send(x)
        around = _neighbourhood(self.kind, sender)  # (B, P, F, N): what the N neighbours of each node send
        exists = _neighbourhood(self.kind, torch.ones_like(sender[:1]))[:, :, 0]
        node = receiver.flatten(2).transpose(1, 2) if self.kind == "image" else receiver
        agreed = functional.leaky_relu(node.unsqueeze(-1) + around, SLOPE)
        scores = self.score(agreed.transpose(-1, -2)).squeeze(-1).masked_fill(exists == 0, -math.inf)
        mixed = (around * torch.softmax(scores, dim=-1).unsqueeze(2)).sum(dim=-1)
        return mixed.transpose(1, 2).reshape(x.shape) if self.kind == "image" else mixed


def _neighbourhood(kind: ShapeKind, x: Tensor) -> Tensor:
    """The neighbourhood of each node, (B, P, F, N), zeros where the graph ends."""
    if kind == "token":
        return earlier(x, GRAPH_WINDOW)
    near = functional.unfold(x, GRAPH_WINDOW, padding=GRAPH_WINDOW // 2)
    return torch.unflatten(near, 1, (x.shape[1], -1)).permute(0, 3, 1, 2)


def transformer_block(site: SiteShape, settings: Settings) -> SeedModule:
    """BP023: `layers` times h <- h + attention(norm(h)), then h <- h + W2 gelu(W1 norm(h)).

    Pre-norm, MLP four times wider, both last projections starting at zero; up to four heads of at least eight features.
    Source: Vaswani et al. 2017, arXiv:1706.03762; pre-norm: Xiong et al. 2020, arXiv:2002.04745.
    """
    heads = min(4, max(1, site.features // 8))
    return Stack(
        [Residual(branch) for _ in range(int(settings["layers"])) for branch in (attention(site, heads), _mlp(site))]
    )


def _mlp(site: SiteShape) -> nn.Module:
    wide = EXPANSION * site.features
    return nn.Sequential(
        norm(site.kind, site.features),
        pointwise(site.kind, site.features, wide),
        nn.GELU(),
        zero_pointwise(site.kind, wide, site.features),
    )


def conv_transformer(site: SiteShape, settings: Settings) -> SeedModule:
    """BP024: h <- h + attention(norm(h)), then h <- h + conv(norm(h)): far and near in one block.

    conv: pointwise to twice the width, gated linear unit, one filter of `kernel` pixels or tokens per channel, norm,
    SiLU, pointwise; it and the attention end in projections that start at zero. LayerNorm where the paper has batch
    norm, so that a sample's result does not depend on the others. A vector has neither far nor near.
    Source: Gulati et al. 2020 (Conformer), arXiv:2005.08100, figures 1 and 2.
    """
    heads = min(4, max(1, site.features // 8))
    return Stack([Residual(attention(site, heads)), Residual(_gated_conv(site, int(settings["kernel"])))])


def _gated_conv(site: SiteShape, kernel: int) -> nn.Module:
    features = site.features
    return nn.Sequential(
        norm(site.kind, features),
        pointwise(site.kind, features, 2 * features),
        nn.GLU(dim=1 if site.kind == "image" else -1),
        local(site.kind, features, features, kernel, groups=features),
        norm(site.kind, features),
        nn.SiLU(),
        zero_pointwise(site.kind, features, features),
    )


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
