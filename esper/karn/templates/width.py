"""Templates that make a layer of the host wider: new units beside its own, which become the host's when they last.

Their module computes nothing by itself: the host computes one wide layer from its own weights and the module's
(`esper.kasmina.width`), so that what is absorbed in the end is the same product over the same numbers.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from esper.karn.blueprint import Settings, WidthShape
from esper.karn.layers import OwnStart, SeedModule


class WiderLayer(OwnStart, SeedModule):
    """The weights of new units: into them, of the norms behind them, and out of them into the consumer.

    With n new units and s sections: `producer_weight` (s x n, *incoming), `producer_bias` (s x n,) where there is one,
    `norm_<i>_weight` and `norm_<i>_bias` (n,) for each norm between, with `norm_<i>_mean` and `norm_<i>_var` as buffers
    where it keeps running statistics, `consumer_weight` (outputs, n x inputs of a unit, *kernel).
    """

    residual = False

    def __init__(self, place: WidthShape, units: int) -> None:
        super().__init__()
        outputs, each, *kernel = place.outgoing
        self.producer_weight = nn.Parameter(torch.empty(place.sections * units, *place.incoming))
        if place.bias:
            self.producer_bias = nn.Parameter(torch.empty(place.sections * units))
        for number, running in enumerate(place.running):
            self.register_parameter(f"norm_{number}_weight", nn.Parameter(torch.empty(units)))
            self.register_parameter(f"norm_{number}_bias", nn.Parameter(torch.empty(units)))
            if running:
                self.register_buffer(f"norm_{number}_mean", torch.empty(units))
                self.register_buffer(f"norm_{number}_var", torch.empty(units))
        self.consumer_weight = nn.Parameter(torch.empty(outputs, units * each, *kernel))

    def start(self, generator: torch.Generator) -> None:
        """Incoming weights and biases uniform within 1 / sqrt(fan in), outgoing ones zero, norms as PyTorch's begin."""
        bound = 1.0 / math.sqrt(self.producer_weight[0].numel())
        for name, tensor in self.state_dict(keep_vars=True).items():
            if name.startswith("producer"):
                tensor.uniform_(-bound, bound, generator=generator)
            else:
                tensor.fill_(1.0 if name.endswith(("_weight", "_var")) and name.startswith("norm") else 0.0)


def wider_layer(place: WidthShape, settings: Settings) -> SeedModule:
    """BP051: y = C [act(P x); act(P' x)] with C' = 0, P' and C' the weights of the new units.

    `factor` times as many units as the layer has now, in whole groups of a GroupNorm between, one at least. The
    incoming weights begin as PyTorch's own layers do, the outgoing ones at zero: the network computes what it did until
    they have learnt something. Shapes: x (..., incoming) or (B, channels, *places); y as the consumer gives it.
    Source: Chen et al., "Net2Net", 2016, and Evci et al., "GradMax", 2022, for zero outgoing weights; copies of units
    and picked incoming weights were measured to be no better (docs/log.md).
    """
    return WiderLayer(place, place.new_units(settings["factor"]))


def attention_heads(place: WidthShape, settings: Settings) -> SeedModule:
    """BP052: y = O [heads(x); heads'(x)] with O' = 0, heads' as large as those that are there.

    `factor` times as many heads as the attention has now, one at least. Queries, keys and values of a new head (rows of
    the producer) begin as PyTorch's own layers do, its columns of the output projection at zero: the network computes
    what it did until the head has learnt what to add. Shapes: x (B, T, incoming); y (B, T, outputs).
    Source: Chen et al., "bert2BERT", 2022, which adds heads too; zero output columns as in BP051.
    """
    return WiderLayer(place, place.new_units(settings["factor"]))
