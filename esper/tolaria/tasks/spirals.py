"""`spirals`: two interleaved spirals in the plane, generated; the smallest task in which a network can be too small."""

from __future__ import annotations

import math
from typing import Final

import torch

from esper.tolaria.data import Samples, split
from esper.tolaria.hosts import MLP, mlp_widths
from esper.tolaria.tasks.task import Task, perceptron_sites

LAYERS: Final = 3
SPLIT: Final = (600, 400, 2000)
NOISE: Final = 0.04
TURNS: Final = 1.25
SEED: Final = 20_251_125
"""Of the points. Hosts, rates and rules were chosen on those of another seed, so no choice has seen these."""


def spirals(width: int) -> Task:
    """The task with hidden layers of this width: 4 (62 parameters) leaves room to grow, 8 (186) is big enough."""
    train, probe, test = split(make_spirals(sum(SPLIT)), SPLIT, SEED)
    return Task(
        name="spirals",
        make_host=lambda: MLP(2, [width] * LAYERS, 2),
        sites=perceptron_sites(LAYERS),
        train=train,
        probe=probe,
        test=test,
        epochs=150,
        batch_size=50,
        learning_rate=2e-2,
        source="builtin:spirals",
        sized_host=lambda params: MLP(2, mlp_widths(params, inputs=2, classes=2, depth=LAYERS), 2),
    )


def make_spirals(count: int) -> Samples:
    """`count` points (count, 2) of radius up to about 1, and which arm each is on (count,) int64."""
    generator = torch.Generator().manual_seed(SEED)
    arm = torch.arange(count) % 2
    radius = torch.rand(count, generator=generator).sqrt() * 0.95 + 0.05
    angle = 2 * math.pi * TURNS * radius + math.pi * arm
    points = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return Samples(points + NOISE * torch.randn(count, 2, generator=generator), arm)
