"""A decoder-only transformer learns the characters of Python's own documentation, compiled by torch.compile.

The text is `pydoc_data.topics`; an epoch is `--steps` batches of windows drawn at random.
"""

import argparse
import pydoc_data.topics

import torch
from torch import nn
from torch.nn import functional

import esper

CONTEXT, WIDTH = 64, 32


def text():
    """The documentation as (train, probe, test): three long tensors of character ids, and how many there are."""
    joined = "".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    symbols = sorted(set(joined))
    ids = torch.tensor([symbols.index(character) for character in joined[:300_000]])
    train, probe, test = ids.split([270_000, 15_000, len(ids) - 285_000])
    return train, probe, test, len(symbols)


class Block(nn.Module):
    """Causal attention and an MLP, each with a residual connection: (B, T, width) to (B, T, width)."""

    def __init__(self, width=WIDTH, heads=4):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, hidden):
        """One block."""
        batch, length, width = hidden.shape
        parts = self.qkv(self.norm(hidden)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*parts, is_causal=True)
        hidden = hidden + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return hidden + self.down(functional.gelu(self.up(self.mlp_norm(hidden))))


class Decoder(nn.Module):
    """Character ids (B, T) to logits (B, T, symbols)."""

    def __init__(self, symbols):
        super().__init__()
        self.symbols, self.positions = nn.Embedding(symbols, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.block = Block()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, symbols)

    def forward(self, ids):
        """Next-character logits."""
        hidden = self.symbols(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.block(hidden)))


def windows(ids, starts):
    """Inputs and targets of windows that begin at `starts`: two tensors (N, CONTEXT)."""
    rows = torch.stack([ids[start : start + CONTEXT + 1] for start in starts])
    return rows[:, :-1], rows[:, 1:]


def losses(model, ids):
    """Cross-entropy of 128 windows, shape (128,), in nats a character."""
    inputs, targets = windows(ids, range(0, 128 * CONTEXT, CONTEXT))
    return functional.cross_entropy(model(inputs).transpose(1, 2), targets, reduction="none").mean(1)


def batches(ids, steps):
    """`steps` batches of 16 windows drawn at random."""
    for _ in range(steps):
        yield windows(ids, torch.randint(len(ids) - CONTEXT, (16,)).tolist())


def main():
    """Train and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--backend", default="inductor", help="torch.compile's; `eager` needs no C++ compiler")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    train, probe, test, symbols = text()
    model = Decoder(symbols)
    model.compile(backend=arguments.backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    run = esper.grow(model, optimizer, probe=lambda model: losses(model, probe), epochs=arguments.epochs)
    for _epoch in run.epochs():
        for inputs, targets in run.batches(batches(train, arguments.steps)):
            run.step(lambda x=inputs, y=targets: functional.cross_entropy(model(x).transpose(1, 2), y))
    run.report(lambda model: losses(model, test))
    with torch.no_grad():
        print(f"probe loss {losses(model, probe).mean():.4f}, test loss {losses(model, test).mean():.4f}")


if __name__ == "__main__":
    main()
