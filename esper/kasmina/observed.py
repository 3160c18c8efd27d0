"""What can be seen of seeds from outside: as a policy sees them, as telemetry does, as an optimiser holds them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from torch import nn

from contracts.leyline.v1.event_pb2 import SeedObservation, SeedStep
from esper.kasmina import lifecycle
from esper.kasmina.progress import Progress
from esper.kasmina.seed import Seed, Slot

LEARNING: Final = frozenset(
    {lifecycle.TRAINING, lifecycle.BLENDING, lifecycle.PROBATIONARY, lifecycle.FOSSILIZED},
)


def observe(slot: Slot, progress: Progress) -> SeedObservation:
    """A slot as a policy may see it."""
    observation = SeedObservation(
        seed_id=slot.seed_id,
        stage=slot.stage,
        stage_age_epochs=slot.stage_epochs,
        alpha=slot.alpha,
        life=slot.life,
        culls=slot.culls,
        gate_ready=progress.gate_ready(slot),
        epochs_until_free=progress.epochs_until_free(slot),
        isolation_violations=slot.violations,
    )
    if slot.seed is not None:
        observation.blueprint_id = slot.seed.blueprint_id
        observation.parameters = slot.seed.size
        observation.gradient_norm = float(slot.seed.gradient_norm)
        observation.activation_norm_ratio = float(slot.seed.output_ratio)
        observation.loss_before = 0.0 if slot.seed.before is None else slot.seed.before.mean
        if slot.seed.impact is not None:
            observation.contribution = slot.seed.impact.contribution.mean
            observation.contribution_stderr = slot.seed.impact.contribution.stderr
    return observation


def step_of(slot: Slot, seed: Seed) -> SeedStep:
    """The last step's figures of the seed in a slot."""
    return SeedStep(
        seed_id=slot.seed_id,
        stage=slot.stage,
        alpha=slot.alpha,
        gradient_norm=float(seed.gradient_norm),
        side_loss=seed.side_loss,
        activation_norm_ratio=float(seed.output_ratio),
    )


def learning(slots: Collection[Slot]) -> dict[str, list[nn.Parameter]]:
    """The parameters of the seeds that learn, by seed id; seeds that have none to learn are left out."""
    held = {
        slot.seed_id: [parameter for parameter in slot.occupant().module.parameters() if parameter.requires_grad]
        for slot in slots
        if slot.stage in LEARNING
    }
    return {seed_id: parameters for seed_id, parameters in held.items() if parameters}


def lives(slots: Collection[Slot]) -> dict[str, int]:
    """How many lives were germinated, fossilized and culled."""
    return {
        "germinated": sum(slot.life for slot in slots),
        "fossilized": sum(slot.fossils for slot in slots),
        "culled": sum(slot.culls for slot in slots),
    }
