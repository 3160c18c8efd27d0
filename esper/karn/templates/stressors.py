"""Stressors (BP043 to BP050): blueprints that misbehave on purpose, so that a drill can see a safety path act.

Each says in its docstring how it misbehaves and what bounds that, so that a drill ends; none can be offered or built
without a clearance for a drill.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor, nn

from esper.karn.blueprint import Settings, SiteShape
from esper.karn.layers import OwnStart, SeedModule, zero_pointwise

GRADIENT_LAYERS = 6
MIB = 2**20
LEAK_CEILING = 128 * MIB
DEADLOCK_PATIENCE_S = 0.05
RACE_THREADS = 4
RACE_COUNTERS = 25


class Carrier(SeedModule):
    """s = h + W h with W starting at zero, from which a stressor departs; so it is not residual."""

    def __init__(self, site: SiteShape) -> None:
        super().__init__()
        self.learnt: nn.Module = zero_pointwise(site.kind, site.features, site.features)

    def carry(self, h: Tensor) -> Tensor:
        """What a harmless seed would answer; same shape."""
        added: Tensor = self.learnt(h)
        return h + added


class ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, factor: float) -> Tensor:
        """The same values."""
        ctx.factor = factor
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient times the factor; the factor has none."""
        (gradient,) = gradients
        return gradient * ctx.factor, None


def scale_gradient(h: Tensor, factor: float) -> Tensor:
    """`h` itself; its gradient is multiplied by `factor`."""
    scaled: Tensor = ScaledGradient.apply(h, factor)  # type: ignore[no-untyped-call]  # torch has no types for it
    return scaled


def exploding_gradient(site: SiteShape, settings: Settings) -> SeedModule:
    """BP043 (stressor): s = h + W h, but its gradient is multiplied by `scale` in each of six layers.

    What a deep network whose layers all have gain `scale` does to its gradient: ds/dh = scale^6. Forward it looks
    harmless. Bound: scale^6 is 15 625 to 64 000 000, the same in every step, so the gradient of an ordinary loss stays
    a finite number. Source: Pascanu et al. 2013, arXiv:1211.5063, section 2.1.
    """
    return ExplodingGradient(site, settings["scale"])


class ExplodingGradient(Carrier):
    """A harmless answer with a gradient that explodes on the way back."""

    def __init__(self, site: SiteShape, scale: float) -> None:
        super().__init__(site)
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer; same shape."""
        s = self.carry(h)
        for _ in range(GRADIENT_LAYERS):
            s = scale_gradient(s, self.scale)
        return s


def vanishing_gradient(site: SiteShape, settings: Settings) -> SeedModule:
    """BP044 (stressor): s = h + W h, but its gradient is multiplied by `decay` in each of six layers.

    Neither the seed nor anything below it in the network learns through it: ds/dh = decay^6, at most a millionth.
    Forward it looks harmless. Bound: it is only ever smaller than a gradient should be. Source: Pascanu et al. 2013,
    arXiv:1211.5063, section 2.1.
    """
    return VanishingGradient(site, settings["decay"])


class VanishingGradient(Carrier):
    """A harmless answer with a gradient that dies on the way back."""

    def __init__(self, site: SiteShape, decay: float) -> None:
        super().__init__(site)
        self.decay = decay

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer; same shape."""
        s = self.carry(h)
        for _ in range(GRADIENT_LAYERS):
            s = scale_gradient(s, self.decay)
        return s


def nan_injection(site: SiteShape, settings: Settings) -> SeedModule:
    """BP045 (stressor): s = h + W h, and in a share `frequency` of all passes one element is not a number.

    One is enough: the loss is NaN, and so is every gradient. Which pass and which element is drawn from the current
    random stream. Bound: one element a pass, a tenth of the passes at most.
    """
    return NanInjection(site, settings["frequency"])


class NanInjection(Carrier):
    """A harmless answer, but for a rare NaN."""

    def __init__(self, site: SiteShape, frequency: float) -> None:
        super().__init__(site)
        self.frequency = frequency

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer with or without a NaN in it; same shape."""
        s = self.carry(h)
        draw = torch.rand(2, device=h.device)
        place = (draw[1] * s.numel()).long()
        hit = (draw[0] < self.frequency) & (torch.arange(s.numel(), device=h.device) == place)
        # A product and not a mask: the NaN must come back through the gradient, too.
        return s * torch.ones_like(s).masked_fill(hit.view_as(s), math.nan)


def infinite_loop(site: SiteShape, settings: Settings) -> SeedModule:
    """BP046 (stressor): s = h + W h, after waiting in vain for a fixed point.

    It rotates a pair of numbers by a radian until it stops moving, which it never does. Bound: it gives up after
    `iterations` rounds, which take about 5 to 50 ms on a CPU: some thousand times what an ordinary seed takes.
    """
    return InfiniteLoop(site, int(settings["iterations"]))


class InfiniteLoop(Carrier):
    """A harmless answer that comes far too late."""

    def __init__(self, site: SiteShape, iterations: int) -> None:
        super().__init__(site)
        self.iterations = iterations

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer; same shape."""
        with torch.no_grad():
            turn = h.new_tensor([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]])
            point = h.new_ones(2)
            for _ in range(self.iterations):
                point = turn @ point
        return self.carry(h)


def memory_leak(site: SiteShape, settings: Settings) -> SeedModule:
    """BP047 (stressor): s = h + W h, and every pass keeps `growth_rate` MiB more, on the activation's device.

    Bound: it stops at 128 MiB, and gives all of it back when the module is dropped. What it keeps is in no checkpoint.
    """
    return MemoryLeak(site, settings["growth_rate"])


class MemoryLeak(Carrier):
    """A harmless answer that costs more memory each time."""

    def __init__(self, site: SiteShape, growth_rate: float) -> None:
        super().__init__(site)
        self.bytes_per_pass = int(growth_rate * MIB)
        self.kept: list[Tensor] = []

    @property
    def leaked(self) -> int:
        """Bytes that it holds and has no use for."""
        return sum(tensor.numel() for tensor in self.kept)

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer; same shape."""
        more = min(self.bytes_per_pass, LEAK_CEILING - self.leaked)
        if more > 0:
            # Ones and not an empty tensor: memory that nobody has written to costs nothing.
            self.kept.append(torch.ones(more, dtype=torch.uint8, device=h.device))
        return self.carry(h)


def deadlock_pattern(site: SiteShape, settings: Settings) -> SeedModule:
    """BP048 (stressor): s = h + W h, after `threads` threads have waited for each other in a circle.

    Each holds one lock and wants its neighbour's, which its neighbour will not give: Coffman's circular wait. Bound:
    every wait gives up after 50 ms, and no lock is given back before all have given up, so a pass takes a little more
    than that and leaves no thread behind. Source: Coffman et al. 1971, Computing Surveys 3(2), section 2.
    """
    return Deadlock(site, int(settings["threads"]))


class Deadlock(Carrier):
    """A harmless answer that comes after a deadlock was given up. `given_up` counts the threads that starved, ever."""

    def __init__(self, site: SiteShape, threads: int) -> None:
        super().__init__(site)
        self.threads = threads
        self.given_up = 0

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer; same shape."""
        self.given_up += wait_in_a_circle(self.threads, DEADLOCK_PATIENCE_S)
        return self.carry(h)


def wait_in_a_circle(threads: int, patience_s: float) -> int:
    """How many of the threads never got what they waited for: all of them, because each holds what another wants."""
    locks = [threading.Lock() for _ in range(threads)]
    together = threading.Barrier(threads)
    starved: list[int] = []

    def hold_and_wait(mine: int) -> None:
        with locks[mine]:
            together.wait()
            if locks[(mine + 1) % threads].acquire(timeout=patience_s):
                locks[(mine + 1) % threads].release()
            else:
                starved.append(mine)
            together.wait()

    workers = [threading.Thread(target=hold_and_wait, args=(mine,), daemon=True) for mine in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(starved)


def race_condition(site: SiteShape, settings: Settings) -> SeedModule:
    """BP049 (stressor): s = (h + W h) * n / 4, n_c what is left of four threads' additions to feature c.

    Four threads raise each of 25 counters once, without a lock: each reads a counter, in every other turn lets
    `window_ns` nanoseconds pass, and writes back one more; what others wrote in between is lost. A feature is scaled by
    the counters that are its own, so the output is wrong by factors that nobody can predict, and the same run does not
    give the same numbers again. Bound: the factors are between 1/4 and 1, a pass adds 100 times and leaves no thread
    behind. Source: the lost update, Bernstein et al. 1987, Concurrency Control and Recovery, section 1.1.
    """
    return RaceCondition(site, settings["window_ns"])


class RaceCondition(Carrier):
    """An answer of the right shape and an accidental size."""

    def __init__(self, site: SiteShape, window_ns: float) -> None:
        super().__init__(site)
        self.window_s = window_ns * 1e-9
        self.counted = min(site.features, RACE_COUNTERS)
        self.axes = (-1, 1, 1) if site.kind == "image" else (-1,)
        self.features = site.features

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer, too small; same shape."""
        left = count_without_lock(self.window_s)
        own = [left[first :: self.counted] for first in range(self.counted)]
        factors = [sum(counters) / (RACE_THREADS * len(counters)) for counters in own]
        spread = [factors[feature % self.counted] for feature in range(self.features)]
        return self.carry(h) * h.new_tensor(spread).view(self.axes)


def count_without_lock(window_s: float) -> list[int]:
    """What is left of all additions, by counter."""
    counters = [0] * RACE_COUNTERS
    together = threading.Barrier(RACE_THREADS)
    never = threading.Event()

    def add(thread: int) -> None:
        together.wait()
        for place in range(RACE_COUNTERS):
            seen = counters[place]
            if (thread + place) % 2:  # all of them in every turn would run in step, and lose the same updates each time
                never.wait(window_s)
            counters[place] = seen + 1

    workers = [threading.Thread(target=add, args=(thread,), daemon=True) for thread in range(RACE_THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return counters


def adversarial_noise(site: SiteShape, settings: Settings) -> SeedModule:
    """BP050 (stressor): s = h + W h + epsilon * rms(h) * d, d = sign of the loss's last mean gradient.

    One direction for all samples, learned from what came back in the last training pass, against which the whole
    network has to work: a fast gradient sign step in the activation. Before the first pass d is +1 everywhere. Bound:
    no element is moved by more than `epsilon` times the activation's root mean square. Source: Goodfellow et al. 2015,
    arXiv:1412.6572, section 4; one for all samples: Moosavi-Dezfooli et al. 2017, arXiv:1610.08401.
    """
    return AdversarialNoise(site, settings["epsilon"])


class AdversarialNoise(OwnStart, Carrier):
    """An answer that is pushed to where the loss rises fastest."""

    direction: Tensor

    def __init__(self, site: SiteShape, epsilon: float) -> None:
        super().__init__(site)
        self.epsilon = epsilon
        self.register_buffer("direction", torch.empty(site.shape))

    def start(self, generator: torch.Generator) -> None:  # noqa: ARG002  (nothing here is drawn)
        """Upwards everywhere."""
        self.direction.fill_(1.0)

    def forward(self, h: Tensor) -> Tensor:
        """The carrier's answer, disturbed; same shape."""
        size = h.detach().square().mean().sqrt()
        s = self.carry(h) + self.epsilon * size * self.direction.clone()
        if self.training and s.requires_grad:
            s.register_hook(self._learn)  # type: ignore[no-untyped-call]  # torch has no types for it
        return s

    @torch.no_grad()
    def _learn(self, gradient: Tensor) -> None:
        if gradient.shape[1:] == self.direction.shape:
            self.direction.copy_(gradient.mean(dim=0).sign())
