"""One slot: a site, the seed that lives there now, and everything that must survive a restore."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.kasmina import lifecycle
from esper.kasmina.blending import Blend
from esper.kasmina.gates import Health, Impact, Leftovers, Subject
from esper.kasmina.kernels import Form
from esper.kasmina.lifecycle import Stage
from esper.kasmina.probe import Loss
from esper.kasmina.randomness import Stream

_LATENCIES: Final = 64


@dataclass(slots=True)
class Seed:
    """What a slot holds while a seed lives there: made when it germinates, gone when it is culled."""

    blueprint_id: str
    parameters: dict[str, float]
    module: nn.Module
    blend: Blend
    stream: Stream
    before: Loss | None = None
    """The probe loss when it germinated."""
    compiled: Form | None = None
    """The form that serves in training where there is one; measurements and evaluation are the module's own."""
    compiled_ref: str = ""
    """The artifact that `compiled` is from, or has to be from again after a restore."""
    trouble: str = ""
    """Why its kernel cannot be used; the module is the identity then, and G0 fails."""
    ramp_step: int = 0
    training_steps: int = 0
    forward_errors: int = 0
    nonfinite_losses: int = 0
    side_loss: float = 0.0
    gradient_norm: Tensor | float = 0.0
    output_ratio: Tensor | float = 0.0
    impact: Impact | None = None
    """As of the last epoch end in SHADOWING or PROBATIONARY."""
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    """Of the last forwards; a measurement of this machine, so not part of the saved state."""

    @property
    def residual(self) -> bool:
        """Whether the module says that it begins as the identity."""
        return bool(getattr(self.module, "residual", False))

    @property
    def size(self) -> int:
        """Trainable parameters, frozen ones included."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def form(self) -> str:
        """Which form serves."""
        return "identity" if self.trouble else "compiled" if self.compiled_ref else "eager"

    @property
    def latency_ms(self) -> float:
        """The quickest of the last forwards, 0 before the first.

        What the module takes, and not what else the machine had to do: on a busy one the median failed good seeds.
        """
        return min(self.latencies_ms, default=0.0)


@dataclass(slots=True)
class Slot:
    """A site's slot. `stage` changes by `enter` alone, so no move goes round the table."""

    description: SiteDescription
    stage: Stage = lifecycle.DORMANT
    stage_epochs: int = 0
    stage_steps: int = 0
    life: int = 0
    culls: int = 0
    fossils: int = 0
    violations: int = 0
    alpha: float = 0.0
    seed: Seed | None = None
    hook: RemovableHandle | None = None
    _alpha_tensor: Tensor | None = None

    @property
    def seed_id(self) -> str:
        """s1, s2, … in site order."""
        return self.description.seed_id

    @property
    def subject(self) -> Subject:
        """What a gate's verdict is about."""
        return Subject(self.seed_id, self.stage, self.life)

    def occupant(self) -> Seed:
        """The seed that lives here; only for stages that have one."""
        assert self.seed is not None, f"{self.seed_id} is {lifecycle.name(self.stage)} and has no seed"
        return self.seed

    def health(self) -> Health:
        """What every gate asks first."""
        return Health(self.violations, self.occupant().forward_errors)

    def enter(self, stage: Stage) -> None:
        """Move to `stage`; raises IllegalTransition, and changes nothing, where the table has no such move."""
        lifecycle.move(self.stage, stage)
        self.stage = stage
        self.stage_epochs = 0
        self.stage_steps = 0

    def set_alpha(self, alpha: float) -> None:
        """Mix the seed at `alpha`, from 0 to 1, from the next forward on."""
        assert 0.0 <= alpha <= 1.0
        self.alpha = alpha
        self._alpha_tensor = None

    def alpha_like(self, activation: Tensor) -> Tensor:
        """Alpha as a tensor without axes or gradient: a tensor's value may change without recompiling anything."""
        cached = self._alpha_tensor
        if cached is None or cached.device != activation.device or cached.dtype != activation.dtype:
            cached = torch.tensor(self.alpha, dtype=activation.dtype, device=activation.device)
            self._alpha_tensor = cached
        return cached

    def settle(self, *, frozen: bool) -> None:
        """Make the module's parameters what the stage says: learning, or frozen and without gradient."""
        for parameter in self.occupant().module.parameters():
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None

    def empty(self) -> None:
        """Take the seed out of the network: hook, module and alpha go at once; counters wait for the scrub."""
        if self.hook is not None:
            self.hook.remove()
            self.hook = None
        self.seed = None
        self.set_alpha(0.0)

    def scrub(self) -> None:
        """Clear what an ended life left behind; `life`, `culls` and `fossils` count lives and stay."""
        self.empty()
        self.violations = 0

    def leftovers(self) -> Leftovers:
        """What G5 judges."""
        seed = self.seed
        tensors = 0 if seed is None else len(seed.module.state_dict()) + (seed.before is not None)
        counters = (
            0 if seed is None else seed.forward_errors + seed.nonfinite_losses + seed.training_steps + seed.ramp_step
        )
        return Leftovers(
            modules=int(seed is not None),
            hooks=int(self.hook is not None),
            tensors=tensors,
            alpha=self.alpha,
            isolation_violations=self.violations,
            counters=counters,
        )


def ramp(step: int, total: int, temperature: float) -> float:
    """Alpha after `step` of `total` steps: a sigmoid stretched to run from exactly 0 to exactly 1, never falling.

    `temperature` is the sigmoid's width as a share of `total`. Raises nothing; steps beyond `total` give 1.
    """
    if step <= 0 or step >= total:
        return float(step > 0)
    low = _sigmoid(-0.5 / temperature)
    value = _sigmoid((step / total - 0.5) / temperature)
    return min(1.0, max(0.0, (value - low) / (1.0 - 2.0 * low)))


def _sigmoid(x: float) -> float:
    """Logistic function that does not overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def readable(parameters: Mapping[str, float]) -> dict[str, float]:
    """A plain, sorted copy of a command's parameters."""
    return {name: float(parameters[name]) for name in sorted(parameters)}
