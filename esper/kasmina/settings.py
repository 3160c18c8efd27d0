"""Every number of a seed's life, with its default. The run's first event records all of them. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from esper.errors import InvalidInput

HostRule = Literal["learns", "detached"]
TrainingRule = Literal["side_pass", "straight_through"]
Lifecycle = Literal["full", "direct"]


@dataclass(frozen=True, slots=True)
class SeedSettings:
    """How long each stage lasts, what its gate asks, and which of the rules apply.

    Epoch counts are epoch ends seen in the stage. The `*_z` limits are multiples of the standard error of a paired
    difference over the probe set. Raises InvalidInput for values out of range.
    """

    germination_steps: int = 1
    """Optimiser steps that a seed stays GERMINATED before G0 is judged."""
    training_epochs: int = 2
    blend_epochs: int = 3
    """The alpha ramp takes this many epochs' worth of steps. Ramps shorter than 3 epochs shock the host."""
    shadow_epochs: int = 1
    probation_epochs: int = 1
    """Epochs in PROBATIONARY before a fossilize command is accepted."""
    probation_patience: int = 5
    """Epochs in PROBATIONARY after which a seed that nobody fossilized is culled."""
    embargo_epochs: int = 5
    reset_epochs: int = 1

    lifecycle: Lifecycle = "full"
    """`direct` inserts the module at alpha 1 at once, without dwell or gates: the comparison arm."""
    training_rule: TrainingRule = "side_pass"
    """`straight_through` is measured to fail (the seed never sees its own effect); kept for comparison."""
    host_rule: HostRule = "learns"
    """`detached`: from BLENDING on nothing upstream of the site learns, because its path to the loss is cut."""
    freeze_fossils: bool = False
    side_pass_alpha: float = 1.0
    """The alpha at which a seed in TRAINING is mixed into its own pass."""
    alpha_temperature: float = 0.1
    """Width of the sigmoid ramp as a share of its length; 0.1 is 2 steps of 20."""

    max_kept_mib: float = 4.0
    """A seed that holds more beside its parameters and buffers is culled at the next step: it leaks memory."""
    min_gradient_norm: float = 1e-6
    """G1: a gradient that is not above this has vanished; what a float32 weight of size 1 can resolve is 1e-7."""
    max_kernel_latency_ms: float = 10.0
    """G2: time of the seed's own forward, the quickest of the last ones."""
    max_output_ratio: float = 10.0
    """G1 and G2: norm of what the seed adds over the host activation's. Diverging seeds were measured at 12 to 208."""
    min_blended_alpha: float = 0.95
    """G2: alpha that a finished ramp has reached."""
    harm_z: float = 2.0
    """G1 and G3 fail where the seed makes the probe loss worse by more than this many standard errors."""
    harm_share: float = 0.05
    """G1, G2 and G3 let harm below this share of the probe loss pass, however significant it is: a residual seed moves
    every sample by so little that 2 standard errors were measured at 0.004 of a loss of 0.85."""
    drift_z: float = 3.0
    """G2 fails where the probe loss has risen since germination by more than this many standard errors."""
    benefit_z: float = 1.0
    """G4 asks that alpha 0 is worse than the seed as it is by more than this many standard errors."""
    regression_z: float = 1.0
    """G4 asks that the probe loss is not above that before germination by more than this many standard errors."""

    leak_tolerance: float = 1e-10
    """A leak is a summed absolute gradient above this on anything but the seed's own parameters."""
    isolation_violations: int = 3
    isolation_window_s: float = 30.0

    def __post_init__(self) -> None:
        """Check every field, so that a bad setting is named where it is given and not where it bites."""
        for name in ("germination_steps", "training_epochs", "blend_epochs", "shadow_epochs", "probation_epochs"):
            self._check(name, getattr(self, name) >= 1, "at least 1, because every stage has a minimum dwell")
        for name in ("reset_epochs", "isolation_violations"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("embargo_epochs", self.embargo_epochs >= 0, "0 or more")
        self._check("probation_patience", self.probation_patience >= self.probation_epochs, "at least probation_epochs")
        self._check("lifecycle", self.lifecycle in get_args(Lifecycle), "full or direct")
        self._check("training_rule", self.training_rule in get_args(TrainingRule), "side_pass or straight_through")
        self._check("host_rule", self.host_rule in get_args(HostRule), "learns or detached")
        self._check("side_pass_alpha", 0.0 < self.side_pass_alpha <= 1.0, "above 0 and at most 1")
        self._check("min_blended_alpha", 0.0 < self.min_blended_alpha <= 1.0, "above 0 and at most 1")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float):
                self._check(field.name, math.isfinite(value) and value >= 0.0, "finite and not negative")
        self._check("alpha_temperature", 0.0 < self.alpha_temperature <= 1.0, "above 0 and at most 1")
        self._check("isolation_window_s", self.isolation_window_s > 0.0, "above 0")

    def _check(self, name: str, holds: bool, rule: str) -> None:  # noqa: FBT001 - one call form, read as a sentence
        if not holds:
            raise InvalidInput(f"seed setting {name} is {getattr(self, name)!r}; it must be {rule}")
