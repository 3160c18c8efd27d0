"""The model of a run as its facts describe it, which a rollback restores: seeds, learning rates, figures, step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from esper.kasmina.lifecycle import DORMANT, Stage
from esper.metric import Figure


@dataclass(frozen=True, slots=True)
class SeedState:
    """A seed slot; `alpha`, `parameters` and `stage_age_epochs` are as last reported, `since_*` says when it moved."""

    seed_id: str
    site: str = ""
    stage: Stage = DORMANT
    blueprint_id: str = ""
    alpha: float = 0.0
    life: int = 0
    parameters: int = 0
    form: str = ""
    stage_age_epochs: int = 0
    since_sequence: int = 0
    since_step: int = 0
    since_epoch: int = 0
    moved: bool = False  # whether any transition was seen yet

    def reported(self, alpha: float, parameters: int, stage_age_epochs: int) -> SeedState:
        """The slot with what the end of an epoch says of it; `dataclasses.replace` takes four times as long."""
        return SeedState(
            self.seed_id,
            self.site,
            self.stage,
            self.blueprint_id,
            alpha,
            self.life,
            parameters,
            self.form,
            stage_age_epochs,
            self.since_sequence,
            self.since_step,
            self.since_epoch,
            self.moved,
        )


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint: the state after the fact `sequence`, at `step`."""

    ref: str
    step: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Rate:
    """A group's learning rate as it was last changed, at `step`; `born` is when its parameters were new, if ever.

    Between changes a rate follows its schedule, which no fact repeats.
    """

    lr: float
    step: int
    born: int | None = None


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a rollback restores: the network, its optimiser and how far training is."""

    step: int = 0
    epoch: int = 0
    seeds: Mapping[str, SeedState] = field(default_factory=dict)
    learning_rates: Mapping[str, Rate] = field(default_factory=dict)
    params: int = 0
    probe_loss: float | None = None
    probe_accuracy: float | None = None
    windows: Mapping[bytes, str] = field(default_factory=dict)  # open observation windows: command id -> seed id
    checkpoint: Saved | None = None  # the last one of this timeline, kept or not
    metrics: tuple[Figure, ...] = ()  # on the probe set, the main one first

    def at(self, step: int, epoch: int) -> ModelState:
        """The same at another place of the run's clock; written out as `SeedState.reported` is."""
        return ModelState(
            step,
            epoch,
            self.seeds,
            self.learning_rates,
            self.params,
            self.probe_loss,
            self.probe_accuracy,
            self.windows,
            self.checkpoint,
            self.metrics,
        )
