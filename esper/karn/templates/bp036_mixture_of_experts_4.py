"""BP036 mixture_of_experts_4: s = h + sum over the best two experts of gate(h) * W2 gelu(W1 h), W2 starting at zero.

Gates are the two largest of a softmax over `experts`, scaled to sum to one. While training an expert takes at most
ceil(capacity * 2 * places / experts) places of a group, first come first served; who comes too late is passed by. A
group is an image's pixels, a text's tokens, or a batch of vectors. Otherwise nobody is turned away, so that a result
does not depend on who else is in the batch. Places come in order, first and second choices together: with the paper's
order, all first choices before any second, a token would learn from those after it whether the expert was full.
Source: Lepikhin et al. 2020 (GShard), arXiv:2006.16668, section 2.2 and algorithm 1. Without its auxiliary loss: a seed
has no loss of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper.karn.blueprint import Blueprint, Residual, SeedModule, Setting, Settings, ShapeKind, SiteShape
from esper.karn.layers import Table
from esper.karn.places import from_places, to_places

CHOICES = 2
EXPANSION = 2


class MixtureOfExperts(nn.Module):
    """The branch; axes: G groups, S places of a group, K choices of a place, E experts, F features."""

    def __init__(self, site: SiteShape, experts: int, capacity: float) -> None:
        super().__init__()
        features, wide = site.features, EXPANSION * site.features
        self.kind: ShapeKind = site.kind
        self.experts = experts
        self.capacity = capacity
        self.route = nn.Linear(features, experts)
        self.widen = Table(experts, features, wide, bound=1.0 / math.sqrt(features))
        self.narrow = nn.Parameter(torch.empty(experts, wide, features))

    def forward(self, h: Tensor) -> Tensor:
        """What the chosen experts add; same shape."""
        visited = h.unsqueeze(0) if self.kind == "vector" else to_places(self.kind, h)
        mixed = self._mix(visited)
        return mixed.squeeze(0) if self.kind == "vector" else from_places(self.kind, mixed, h)

    def _mix(self, visited: Tensor) -> Tensor:
        """The same for groups of places, (G, S, F)."""
        groups, places, features = visited.shape
        gates, expert = torch.softmax(self.route(visited), dim=-1).topk(CHOICES, dim=-1)
        gates = gates / gates.sum(dim=-1, keepdim=True)
        room = self.room(places)
        desk = self._desks(expert.flatten(1), room).unsqueeze(-1).expand(-1, -1, features)
        visitors = visited.repeat_interleave(CHOICES, dim=1)
        # One desk more than there are: who finds the expert full sits there, is not worked on, and gets zero.
        desks = visitors.new_zeros(groups, self.experts * room + 1, features).scatter(1, desk, visitors)
        at_work = torch.unflatten(desks[:, :-1], 1, (self.experts, room)).transpose(0, 1).flatten(1, 2)
        worked = functional.gelu(at_work @ self.widen()) @ self.narrow
        results = torch.unflatten(worked, 1, (groups, room)).transpose(0, 1).flatten(1, 2)
        answers = torch.unflatten(functional.pad(results, (0, 0, 0, 1)).gather(1, desk), 1, (places, CHOICES))
        return (gates.unsqueeze(-1) * answers).sum(dim=2)

    def room(self, places: int) -> int:
        """How many places of a group of that many one expert takes."""
        if not self.training:
            return places
        return min(places, math.ceil(self.capacity * CHOICES * places / self.experts))

    def _desks(self, expert: Tensor, room: int) -> Tensor:
        """Where each choice is worked on, expert by expert; the last desk where its expert is full."""
        chosen = functional.one_hot(expert, self.experts)
        before = (chosen.cumsum(dim=1) * chosen).sum(dim=-1) - 1
        return torch.where(before < room, expert * room + before, self.experts * room)


def make(site: SiteShape, settings: Settings) -> SeedModule:
    """The module for one site."""
    return Residual(MixtureOfExperts(site, int(settings["experts"]), settings["capacity"]))


BLUEPRINT = Blueprint(
    blueprint_id="BP036",
    name="mixture_of_experts_4",
    stage=5,
    risk=0.7,
    tier="experimental",
    settings=(Setting("experts", 4, 8, default=4, integer=True), Setting("capacity", 1.0, 2.0, default=1.25)),
    tags=("moe", "dynamic"),
    make=make,
    description="h + the two best of several experts",
)
