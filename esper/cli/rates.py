"""The learning rates of a moment: a fact says what a rate was when it changed, the schedule what became of it since."""

from __future__ import annotations

import json

from contracts.leyline.v1.event_pb2 import RunStarted
from esper.record import ModelState, Rate
from esper.tolaria.learning_rate import MIN_RATE, rising, schedule


def rates_at(world: ModelState, begun: RunStarted) -> dict[str, float]:
    """The learning rate that every group takes its next step with: as it was last changed, moved on by its schedule."""
    if not begun.config_json:
        return {group: rate.lr for group, rate in world.learning_rates.items()}
    config, steps = json.loads(begun.config_json), begun.steps_per_epoch
    scheduled = schedule(
        config["rate_policy"],
        total_steps=begun.epochs * steps,
        warmup_steps=round(config["rate_warmup_epochs"] * steps),
    )
    warm_up = round(config["new_parameter_warmup_epochs"] * steps)

    def factor(step: int, born: int | None) -> float:
        rise = 1.0 if born is None else rising(step - born, warm_up, config["new_parameter_rate"])
        return scheduled(step) * rise

    first = Rate(config["learning_rate"] * factor(0, None), 0)
    rates = {"host": first, **world.learning_rates}
    return {
        group: max(rate.lr * factor(world.step, rate.born) / (factor(rate.step, rate.born) or 1.0), MIN_RATE)
        for group, rate in rates.items()
    }
