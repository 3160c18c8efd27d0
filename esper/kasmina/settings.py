"""Every number of a seed's life, with its default. The run's first event records all of them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from esper.errors import InvalidInput
from esper.leyline.field_checks import check_fields

HostRule = Literal["learns", "detached"]
TrainingRule = Literal["side_pass", "straight_through"]
Lifecycle = Literal["careful", "swift", "direct", "full"]
"""The profiles of a seed's life; `full` is what runs before 2026-12 call `careful`."""
DEFAULT_LIFECYCLE: Final[Lifecycle] = "careful"
Rules = Literal[1, 2]
Axis = Literal["depth", "width", "heads"]
"""Along which a host grows: a module behind one of its own, more units in a layer, more heads in its attention."""
Share = Annotated[float, Field(gt=0, le=1)]
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class SeedSettings:
    """How long each stage lasts, what its gate asks, and which of the rules apply.

    Epoch counts are epoch ends seen in the stage. The `*_z` limits are multiples of the standard error of a paired
    difference over the probe set. Raises InvalidInput for values out of range.
    """

    germination_steps: PositiveInt = 1
    """Optimiser steps that a seed stays GERMINATED before G0 is judged."""
    training_epochs: PositiveInt = 2
    blend_epochs: NonNegativeInt = None  # type: ignore[assignment]  # always a number once it is made
    """The alpha ramp takes this many epochs' worth of steps: 3 where nothing is said, 0 in `swift`, where the seed's
    output is zero when it is mixed in. Ramps shorter than 3 epochs shock the host where a seed was trained before."""
    shadow_epochs: PositiveInt = 1
    probation_epochs: PositiveInt = 1
    """Epochs in PROBATIONARY before a fossilize command is accepted."""
    probation_patience: PositiveInt = 5
    """Epochs in PROBATIONARY after which a seed that nobody fossilized is culled."""
    embargo_epochs: NonNegativeInt = 5
    reset_epochs: PositiveInt = 1

    proof_epochs: PositiveInt = 2
    """`swift`: epochs in PROBATIONARY after which a seed is fossilized as soon as it has proven itself. ..."""
    proof_patience: PositiveInt = 5
    """... and after so many the run goes back to before it, or after `proof_epochs` where those are more: at a constant
    rate the probe loss of two epochs differs by chance about as much as by what a seed brings in that time."""

    rules: Rules = 2
    """Which of the rules that no other setting names. In 2 a proof has patience, an epoch's other proofs are judged
    too where one failed whose state is gone, no candidate is tried at a closed place, nothing is measured for a host
    that has no room to grow, and the latency of a kernel, which depends on a clock, culls nothing."""

    lifecycle: Lifecycle = DEFAULT_LIFECYCLE
    """`careful`: trained beside the host, blended in, watched, culled where it fails. `swift`: inserted at once, then
    proven or undone, several at a time, none larger than its host. `direct`: inserted at alpha 1 for good, without
    dwell or gates: the comparison arm."""
    training_rule: TrainingRule = "side_pass"
    """`straight_through` is measured to fail (the seed never sees its own effect); kept for comparison."""
    host_rule: HostRule = "learns"
    """`detached`: from BLENDING on nothing upstream of the site learns, because its path to the loss is cut."""
    freeze_fossils: bool = False
    side_pass_alpha: Share = 1.0
    """The alpha at which a seed in TRAINING is mixed into its own pass."""
    alpha_temperature: Share = 0.1
    """Width of the sigmoid ramp as a share of its length; 0.1 is 2 steps of 20."""

    max_kept_mib: Limit = 4.0
    """A seed that holds more beside its parameters and buffers is culled at the next step: it leaks memory."""
    min_gradient_norm: Limit = 1e-6
    """G1: a gradient that is not above this has vanished; what a float32 weight of size 1 can resolve is 1e-7."""
    max_kernel_latency_ms: Limit = 10.0
    """G2 by rules 1: time of the seed's own forward, the quickest of the last ones. Rules 2 judge it not."""
    max_output_ratio: Limit = 10.0
    """G1 and G2: norm of what the seed adds over the host activation's. Diverging seeds were measured at 12 to 208."""
    min_blended_alpha: Share = 0.95
    """G2: alpha that a finished ramp has reached."""
    harm_z: Limit = 2.0
    """G1 and G3 fail where the seed makes the probe loss worse by more than this many standard errors."""
    harm_share: Limit = 0.05
    """G1, G2 and G3 let harm below this share of the probe loss pass, however significant it is: a residual seed moves
    every sample by so little that 2 standard errors were measured at 0.004 of a loss of 0.85."""
    drift_z: Limit = 3.0
    """G2 fails where the probe loss has risen since germination by more than this many standard errors."""
    benefit_z: Limit = 1.0
    """G4 asks that alpha 0 is worse than the seed as it is by more than this many standard errors."""
    regression_z: Limit = 1.0
    """G4 asks that the probe loss is not above that before germination by more than this many standard errors."""

    leak_tolerance: Limit = 1e-10
    """A leak is a summed absolute gradient above this on anything but the seed's own parameters."""
    isolation_violations: PositiveInt = 3
    isolation_window_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0

    def __post_init__(self) -> None:
        """Give what the profile decides, and check every field: an error names the setting where it is given."""
        if self.blend_epochs is None:
            object.__setattr__(self, "blend_epochs", 0 if self.swift else 3)
        check_fields(self, prefix="seed setting ")
        if self.probation_patience < self.probation_epochs:
            raise InvalidInput(
                f"seed setting probation_patience is {self.probation_patience}; it must be probation_epochs at least, "
                f"which is {self.probation_epochs}"
            )

    @property
    def swift(self) -> bool:
        """Whether seeds are inserted first and proven afterwards."""
        return self.lifecycle == "swift"
