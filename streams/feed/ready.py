"""Ready schemas: what a job usually wants of field reports and of state packets."""

from __future__ import annotations

from typing import Final

from streams.feed.schema import Field, Schema

SLOTS: Final = 8
"""Seeds of a state packet that `STATE_PACKETS` has room for."""
BLUEPRINTS: Final = tuple(f"BP{number:03d}" for number in range(1, 51))
"""Blueprint ids in the order of the catalogue: code 9 is BP009."""
SEEDS: Final = tuple(f"s{number}" for number in range(1, 65))
"""Seed ids in site order: code 1 is s1."""

_ID: Final = 16

FIELD_REPORTS: Final = Schema(
    "field_report",
    [
        Field("event_id", width=_ID),
        Field("outcome"),
        Field("observation_window_epochs", "window_epochs"),
        Field("metrics[loss_delta_total]", "loss_delta"),
        Field("metrics[loss_delta_min]", "loss_delta_min"),
        Field("metrics[loss_delta_max]", "loss_delta_max"),
        Field("metrics[avg_hook_latency_ms]", "hook_ms"),
        Field("seed_id", "seed", among=SEEDS),
        Field("blueprint_id", "blueprint", among=BLUEPRINTS),
    ],
)
"""Outcome 1 success, 2 neutral, 3 regression, 4 aborted; deltas are new minus old probe loss."""

STATE_PACKETS: Final = Schema(
    "epoch_completed",
    [
        Field("event_id", width=_ID),
        Field("epoch"),
        Field("epochs_total"),
        Field("state.validation_accuracy", "accuracy"),
        Field("state.validation_loss", "loss"),
        Field("state.training_loss", "training_loss"),
        Field("probe_loss_stderr", "loss_stderr"),
        Field("params"),
        Field("params_host"),
        Field("params_budget"),
        Field("epochs_since_structural_change", "settled_epochs"),
        Field("probe_loss_history", "loss_history"),
        Field("seeds.stage", "seed.stage", pad=SLOTS),
        Field("seeds.stage_age_epochs", "seed.age", pad=SLOTS),
        Field("seeds.alpha", "seed.alpha", pad=SLOTS),
        Field("seeds.parameters", "seed.parameters", pad=SLOTS),
        Field("seeds.gradient_norm", "seed.gradient_norm", pad=SLOTS),
        Field("seeds.contribution", "seed.contribution", pad=SLOTS),
        Field("evidence.gradient_norm", "site.gradient_norm", pad=SLOTS),
        Field("evidence.descent", "site.descent", pad=SLOTS),
    ],
)
"""One row per completed epoch: the network as a whole, then its seeds (padded to eight) and its sites."""
