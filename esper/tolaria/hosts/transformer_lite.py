"""A decoder-only Transformer with pre-norm blocks: the host of `chars`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class TransformerBlock(nn.Module):
    """Tokens (B, T, D) to tokens (B, T, D): causal self-attention and a GELU layer, both residual."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens_BTD: Tensor) -> Tensor:  # noqa: N803 (axes: batch, token, feature)
        """The block's activation, the input plus what attention and the GELU layer add."""
        batch, length, width = tokens_BTD.shape
        qkv = self.qkv(self.norm1(tokens_BTD)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        tokens_BTD = tokens_BTD + self.out(mixed.transpose(1, 2).reshape(batch, length, width))  # noqa: N806
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
