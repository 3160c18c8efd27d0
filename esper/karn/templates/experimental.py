"""Experimental blueprints, BP036 to BP042: experts, memory, neural ODE, architecture search, meta-learning.

They need a recorded approval (`esper.karn.approval`).
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
    Table,
    ZeroLinear,
    block_means,
    divisor,
    from_places,
    local,
    norm,
    pointwise,
    running_mean,
    sees_block,
    to_places,
    zero_pointwise,
)
from esper.karn.templates.attention import CrossAttention

CHOICES = 2
EXPERT_EXPANSION = 2
SIDES = (8, 4, 2, 1)
NEAR = 8
BLOCKS = (4, 16, 64)
KERNEL = 3
FAST_WIDTH = 16


def mixture_of_experts_4(site: SiteShape, settings: Settings) -> SeedModule:
    """BP036: s = h + sum over the best two experts of gate(h) * W2 gelu(W1 h), W2 starting at zero.

    Gates are the two largest of a softmax over `experts`, scaled to sum to one. While training an expert takes at most
    ceil(capacity * 2 * places / experts) places of a group, first come first served; who comes too late is passed by. A
    group is an image's pixels, a text's tokens, or a batch of vectors. Otherwise nobody is turned away, so that a
    result does not depend on who else is in the batch. Places come in order, first and second choices together: with
    the paper's order, all first choices before any second, a token would learn from those after it whether the expert
    was full.
    Source: Lepikhin et al. 2020 (GShard), arXiv:2006.16668, section 2.2 and algorithm 1. Without its auxiliary loss: a
    seed has no loss of its own.
    """
    return Residual(MixtureOfExperts(site, int(settings["experts"]), settings["capacity"]))


class MixtureOfExperts(nn.Module):
    """The branch; axes: G groups, S places of a group, K choices of a place, E experts, F features."""

    def __init__(self, site: SiteShape, experts: int, capacity: float) -> None:
        super().__init__()
        features, wide = site.features, EXPERT_EXPANSION * site.features
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


def hierarchical_attention(site: SiteShape, settings: Settings) -> SeedModule:
    """BP037: s = h + W attention(h, [level 1, level 2, ...]), `levels` ever coarser views of it.

    Over an image they are grids of 8, 4, 2 and 1 regions a side; over tokens the last eight tokens, then the means of
    whole blocks of 4, 16 and 64 tokens so far: near things are seen singly and far ones as a whole. Each level has an
    embedding of its own. W starts at zero. A vector has no levels. Source: Zhu and Soricut 2021 (H-Transformer-1D),
    arXiv:2107.11906, section 4; images: Wu et al. 2021 (P2T), arXiv:2106.12011, section 3.2; the idea: Yang et al.
    2016, NAACL.
    """
    return Residual(Hierarchy(site, int(settings["levels"])))


class Hierarchy(nn.Module):
    """The branch: every place attends to all levels at once."""

    def __init__(self, site: SiteShape, levels: int) -> None:
        super().__init__()
        self.image = site.kind == "image"
        self.levels = levels
        self.level = Table(levels, site.features, bound=1.0)
        self.attend = CrossAttention(site.features, min(4, max(1, site.features // 8)), starts_at_zero=True)

    def forward(self, h: Tensor) -> Tensor:
        """What each place reads; same shape."""
        views = self._regions(h) if self.image else self._blocks(h)
        context = torch.cat([view + mark for view, mark in zip(views, self.level(), strict=True)], dim=1)
        if self.image:
            return from_places("image", self.attend(to_places("image", h), context), h)
        out: Tensor = self.attend(h, context, self._visible(h))
        return out

    def _regions(self, h: Tensor) -> list[Tensor]:
        height, width = h.shape[2:]
        sizes = [(min(side, height), min(side, width)) for side in SIDES[: self.levels]]
        return [to_places("image", functional.adaptive_avg_pool2d(h, size)) for size in sizes]

    def _blocks(self, h: Tensor) -> list[Tensor]:
        return [h, *(block_means(h, size) for size in BLOCKS[: self.levels - 1])]

    def _visible(self, h: Tensor) -> Tensor:
        """Which token may look at what, (T, all views)."""
        tokens = h.shape[1]
        near = torch.ones(tokens, tokens, dtype=torch.bool, device=h.device).tril().triu(1 - NEAR)
        blocks = [sees_block(tokens, size, h.device) for size in BLOCKS[: self.levels - 1]]
        return torch.cat([near, *blocks], dim=1)


def memory_augmented(site: SiteShape, settings: Settings) -> SeedModule:
    """BP038: s = h + W r, r = sum_m w_m v_m, w = softmax(beta * cos(q(n), k_m)), n = norm(h).

    W starts at zero. Each place reads, by content, from `memory_slots` learned slots with a key and a value each; beta
    = 1 + softplus(b(n)) says how sharply. The memory is written by the gradient: what should be found there is learned,
    not stored step by step. Source: addressing, Graves et al. 2014 (Neural Turing Machines), arXiv:1410.5401, equations
    5 and 6; learned slots, Lample et al. 2019, arXiv:1907.05242, section 3.1.
    """
    return Residual(Memory(site, int(settings["memory_slots"])))


class Memory(nn.Module):
    """The branch: a soft look-up for each place."""

    def __init__(self, site: SiteShape, slots: int) -> None:
        super().__init__()
        features = site.features
        self.kind: ShapeKind = site.kind
        self.norm = nn.LayerNorm(features)
        self.query = nn.Linear(features, features)
        self.sharpness = nn.Linear(features, 1)
        self.keys = Table(slots, features, bound=1.0 / math.sqrt(features))
        self.values = Table(slots, features, bound=1.0)
        self.project = ZeroLinear(features, features)

    def forward(self, h: Tensor) -> Tensor:
        """What each place reads; same shape."""
        places = self.norm(to_places(self.kind, h))
        query = functional.normalize(self.query(places), dim=-1)
        keys = functional.normalize(self.keys(), dim=-1)
        beta = 1.0 + functional.softplus(self.sharpness(places))
        weights = torch.softmax(beta * (query @ keys.t()), dim=-1)
        return from_places(self.kind, self.project(weights @ self.values()), h)


def neural_ode_block(site: SiteShape, settings: Settings) -> SeedModule:
    """BP039: s = x(1) where x(0) = h and dx/dt = W2 tanh(W1 norm(x) + t * c), W2 starting at zero.

    Solved with `steps` steps of the classical Runge-Kutta method of fourth order, back-propagated through them: at so
    few steps that is cheaper than the paper's adjoint, and exact. W1 is a 3x3 convolution over an image, three tokens
    long over tokens, a linear map over a vector; tanh and norm bound the field, so that a solution cannot run away in
    unit time.
    Source: Chen et al. 2018, arXiv:1806.07366, equation 2; the method: Hairer, Nørsett and Wanner 1993, II.1, table
    1.2.
    """
    return NeuralOde(site, int(settings["steps"]))


class Field(nn.Module):
    """dx/dt at a place and a time between 0 and 1."""

    def __init__(self, site: SiteShape) -> None:
        super().__init__()
        features = site.features
        self.norm = norm(site.kind, features)
        self.first = local(site.kind, features, features, KERNEL)
        self.of_time = nn.Parameter(torch.empty((features, 1, 1) if site.kind == "image" else (features,)))
        self.last = zero_pointwise(site.kind, features, features)

    def forward(self, x: Tensor, time: float) -> Tensor:
        """Same shape as `x`."""
        out: Tensor = self.last(torch.tanh(self.first(self.norm(x)) + time * self.of_time))
        return out


class NeuralOde(SeedModule):
    """The activation moved along the field for a unit of time."""

    residual = True

    def __init__(self, site: SiteShape, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.field = Field(site)

    def forward(self, h: Tensor) -> Tensor:
        """Where it arrives; same shape."""
        span = 1.0 / self.steps
        x = h
        for step in range(self.steps):
            x = _runge_kutta(self.field, x, step * span, span)
        return x


def _runge_kutta(field: Field, x: Tensor, time: float, span: float) -> Tensor:
    """One step of fourth order: its error shrinks with the fifth power of `span`."""
    first = field(x, time)
    second = field(x + 0.5 * span * first, time + 0.5 * span)
    third = field(x + 0.5 * span * second, time + 0.5 * span)
    fourth = field(x + span * third, time + span)
    after: Tensor = x + span / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)
    return after


def differentiable_nas(site: SiteShape, settings: Settings) -> SeedModule:
    """BP040: s = h + W gelu(sum_o softmax((a + noise) / temperature)_o * o(h)), W starting at zero.

    The candidates o are layers; their weights a start equal and are learned with everything else. While training the
    noise is Gumbel's, one draw for the whole batch, so that each pass tries a choice; otherwise there is none. A lower
    `temperature` makes choices more decided. Candidates: nothing, a pointwise map, a local map, a wider local map, a
    gated map (over a vector: nothing, a full, a grouped, a narrow and a gated map).
    Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, equation 2; with noise, Xie et al. 2019 (SNAS), arXiv:1812.09926,
    equation 5.
    """
    return Residual(
        nn.Sequential(
            Choice(site, settings["temperature"]), nn.GELU(), zero_pointwise(site.kind, site.features, site.features)
        )
    )


class Choice(nn.Module):
    """A mixture of candidates that leans towards what helps."""

    def __init__(self, site: SiteShape, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.candidates = nn.ModuleList(_candidates(site))
        self.preference = nn.Parameter(torch.empty(len(self.candidates) + 1))

    def forward(self, h: Tensor) -> Tensor:
        """The mixture; same shape. The last preference is for nothing."""
        weights = torch.softmax((self.preference + self._noise()) / self.temperature, dim=0)
        mixed = torch.zeros_like(h)
        for weight, candidate in zip(weights[:-1], self.candidates, strict=True):
            mixed = mixed + weight * candidate(h)
        return mixed

    def _noise(self) -> Tensor:
        """Gumbel's, -log(E) with E exponential, from the stream that is current; zero when not training."""
        if not self.training:
            return torch.zeros_like(self.preference)
        return -torch.empty_like(self.preference).exponential_().clamp_min(1e-20).log()


def _candidates(site: SiteShape) -> list[nn.Module]:
    kind, features = site.kind, site.features
    axis = 1 if kind == "image" else -1
    gated = nn.Sequential(pointwise(kind, features, 2 * features), nn.GLU(dim=axis))
    if kind == "vector":
        narrow = max(1, features // 2)
        grouped = local(kind, features, features, 1, groups=divisor(features, 4))
        thin = nn.Sequential(nn.Linear(features, narrow), nn.GELU(), nn.Linear(narrow, features))
        return [nn.Linear(features, features), grouped, thin, gated]
    near = local(kind, features, features, 3, groups=features)
    far = local(kind, features, features, 3, groups=features, dilation=2)
    return [pointwise(kind, features, features), near, far, gated]


def meta_learning_layer(site: SiteShape, settings: Settings) -> SeedModule:
    """BP041: s = h + W (A_n q), where a small layer A learns from the sample itself; W starts at zero.

    Key, value and query are linear maps of norm(h). The fast weights start at the learned A_0 and take `adapt_steps`
    steps of gradient descent on the mean over places of 1/2 |A k - v|^2: A_(n+1) = A_n - rate * (A_n mean(k k^T) -
    mean(v k^T)), with keys of length one and a learned rate in (0, 1), so that it cannot diverge. Places are an image's
    pixels, a token and all before it, or the one vector. The outer training learns through the inner steps, where they
    start and how far they go. Source: Finn et al. 2017 (MAML), arXiv:1703.03400, equation 1; a layer that does it, Sun
    et al. 2024 (TTT), arXiv:2407.04620, section 2; fast weights: Ba et al. 2016, arXiv:1610.06258.
    """
    return Residual(FastWeights(site, int(settings["adapt_steps"])))


class FastWeights(nn.Module):
    """The branch; axes: B batch, P places, D width of the fast layer."""

    def __init__(self, site: SiteShape, steps: int) -> None:
        super().__init__()
        width = min(FAST_WIDTH, site.features)
        self.kind: ShapeKind = site.kind
        self.steps = steps
        self.norm = nn.LayerNorm(site.features)
        self.query_key_value = nn.Linear(site.features, 3 * width)
        self.first = Table(width, width, bound=1.0 / math.sqrt(width))
        self.rate = nn.Parameter(torch.empty(1))  # before the sigmoid: starts at one half
        self.project = ZeroLinear(width, site.features)

    def forward(self, h: Tensor) -> Tensor:
        """What the adapted layer says at each place; same shape."""
        places = to_places(self.kind, h)
        query, key, value = self.query_key_value(self.norm(places)).chunk(3, dim=-1)
        key = functional.normalize(key, dim=-1)
        fast = self._adapted(self._mean_product(key, key), self._mean_product(value, key))
        said = (fast @ query.unsqueeze(-1)).squeeze(-1)
        return from_places(self.kind, self.project(said), h)

    def _adapted(self, of_keys: Tensor, of_both: Tensor) -> Tensor:
        """The fast weights after all steps; (B, P or 1, D, D)."""
        rate = torch.sigmoid(self.rate)
        fast: Tensor = self.first().expand_as(of_keys)
        for _ in range(self.steps):
            fast = fast - rate * (fast @ of_keys - of_both)
        return fast

    def _mean_product(self, left: Tensor, right: Tensor) -> Tensor:
        """The mean of left right^T over the places that count for each place; (B, P or 1, D, D)."""
        if self.kind == "image":
            mean: Tensor = left.transpose(1, 2) @ right / left.shape[1]
            return mean.unsqueeze(1)
        return running_mean(left.unsqueeze(-1) * right.unsqueeze(-2))


def recursive_processing(site: SiteShape, settings: Settings) -> SeedModule:
    """BP042: `depth` times h <- h + f(h + step_i), the same f every time; its last map starts at zero.

    f(x) = W2 gelu(W1 norm(x)): W1 is a 3x3 convolution over an image, three tokens long over tokens, a linear map over
    a vector. step_i tells the layer which pass it is in. Every pass costs time and none costs parameters but its step.
    Source: Dehghani et al. 2019 (Universal Transformer), arXiv:1807.03819, equations 2 to 5, with a fixed number of
    passes.
    """
    return Recursive(site, int(settings["depth"]))


class Recursive(SeedModule):
    """One residual layer, applied again to what it gave."""

    residual = True

    def __init__(self, site: SiteShape, depth: int) -> None:
        super().__init__()
        features = site.features
        places = (1, 1) if site.kind == "image" else ()
        self.steps = Table(depth, features, *places, bound=0.1)
        self.layer = nn.Sequential(
            norm(site.kind, features),
            local(site.kind, features, features, KERNEL),
            nn.GELU(),
            zero_pointwise(site.kind, features, features),
        )

    def forward(self, h: Tensor) -> Tensor:
        """The activation after the last pass; same shape."""
        for step in self.steps():
            h = h + self.layer(h + step)
        return h
