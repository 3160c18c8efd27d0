"""The one writer of Simic's learning rates (R-SIM-20), which is Tolaria's: a second writer opens a breaker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from contracts.leyline.v1.event_pb2 import BreakerChanged
from esper.errors import InvalidInput
from esper.leyline.breaker import CircuitBreaker
from esper.tolaria.learning_rate import LearningRates


class LearningRateController:
    """Writes the rate before every step: warm-up, then `policy` (constant, cosine, warmup, wsd) until `total_steps`.

    Where other code wrote a rate the step is not taken: `begin_step` raises InvalidInput, the breaker is open, and what
    has changed of it is in `changes`, for who publishes it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        rate: float,
        total_steps: int,
        warmup_steps: int = 0,
        policy: str = "constant",
        decay_share: float = 0.5,
        monotonic: Callable[[], float],
    ) -> None:
        self.optimizer = optimizer
        self.changes: list[BreakerChanged] = []
        self._breaker = CircuitBreaker("simic.learning_rate", failures=1, monotonic=monotonic)
        self._step = 0
        self._rates = LearningRates(
            policy,
            base_rate=rate,
            total_steps=total_steps,
            warmup_steps=warmup_steps,
            decay_share=decay_share,
            new_parameter_rate=1.0,
            new_parameter_warmup_steps=0,
        )
        for index, group in enumerate(optimizer.param_groups):
            group["name"] = str(index)
            self._rates.add(str(index), 1.0, 0)

    @property
    def rate(self) -> float:
        """The rate of the next step, of the first group."""
        return self._rates.rate("0", self._step)

    def begin_step(self) -> None:
        """Write the rate of the step that comes."""
        undone = self._rates.begin_step(self.optimizer.param_groups, self._step)
        if undone:
            found = undone[0].old_lr
            self.changes += self._breaker.failed(f"a rate of {found:g} that the controller did not write")
        if not self._breaker.allows:
            raise InvalidInput(
                "the learning rate was written by other code than Simic's controller; change it with "
                "LearningRateController.scale alone"
            )
        self._step += 1

    def scale(self, factor: float, reason: str) -> None:
        """Multiply the rate, now and for all steps that come."""
        self._rates.scale(factor, reason, self._step)

    def state(self) -> dict[str, Any]:
        """Everything that decides the rates from now on, as JSON holds it."""
        return {"step": self._step, "rates": self._rates.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._step = int(state["step"])
        self._rates.load_state(state["rates"])
        for group in self.optimizer.param_groups:
            group["lr"] = state["rates"]["written"].get(group["name"], group["lr"])
