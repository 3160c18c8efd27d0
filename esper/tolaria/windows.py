"""Observation windows: the probe losses of the epochs after each applied command, reported closed exactly once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import ObservationWindow
from contracts.leyline.v1.leyline_pb2 import (
    SEED_LIFECYCLE_STAGE_CULLED,
    SEED_LIFECYCLE_STAGE_FOSSILIZED,
    SeedLifecycleStage,
)

_ENDINGS: Final = {SEED_LIFECYCLE_STAGE_FOSSILIZED: "fossilized", SEED_LIFECYCLE_STAGE_CULLED: "culled"}


@dataclass(frozen=True, slots=True)
class Window:
    """One applied command and the probe losses since; ids as hex, so that a checkpoint can hold it."""

    command_id: str
    decision_id: str
    seed_id: str
    blueprint_id: str
    policy_version: str
    opened_epoch: int
    loss_at_open: float
    loss_min: float
    loss_max: float
    loss_now: float
    parameters_added: int
    hook_ms_total: float = 0.0
    age_epochs: int = 0
    critical: bool = False
    ended_as: str = ""

    def message(self) -> ObservationWindow:
        """The window as a packet carries it."""
        return ObservationWindow(
            command_id=bytes.fromhex(self.command_id),
            decision_id=bytes.fromhex(self.decision_id),
            seed_id=self.seed_id,
            blueprint_id=self.blueprint_id,
            opened_epoch=self.opened_epoch,
            age_epochs=self.age_epochs,
            loss_at_open=self.loss_at_open,
            loss_min=self.loss_min,
            loss_max=self.loss_max,
            loss_now=self.loss_now,
            parameters_added=self.parameters_added,
            hook_ms_mean=self.hook_ms_total / max(1, self.age_epochs),
            critical=self.critical,
            closed=bool(self.ended_as),
            ended_as=self.ended_as,
            policy_version=self.policy_version,
        )


class Windows:
    """The open windows of a run, and those that ended since the last report."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._windows: list[Window] = []

    def open(
        self,
        *,
        command_id: bytes,
        decision_id: bytes,
        seed_id: str,
        blueprint_id: str,
        policy_version: str,
        epoch: int,
        loss: float,
        parameters_added: int,
    ) -> None:
        """Open a window for a command that was just applied; `loss` is the probe loss before it."""
        self._windows.append(
            Window(
                command_id=command_id.hex(),
                decision_id=decision_id.hex(),
                seed_id=seed_id,
                blueprint_id=blueprint_id,
                policy_version=policy_version,
                opened_epoch=epoch,
                loss_at_open=loss,
                loss_min=loss,
                loss_max=loss,
                loss_now=loss,
                parameters_added=parameters_added,
            )
        )

    def seed_moved(self, seed_id: str, stage: SeedLifecycleStage) -> None:
        """A seed reached `stage`: where that ends its life as a seed, it ends the windows over it."""
        ending = _ENDINGS.get(stage, "")
        if ending:
            self._end(ending, seed_id)

    def critical(self, seed_id: str) -> None:
        """Mark the open windows of a seed that had a critical event."""
        self._windows = [
            replace(window, critical=True) if window.seed_id == seed_id and not window.ended_as else window
            for window in self._windows
        ]

    def end_all(self, ending: str) -> None:
        """Close every window, because the run was rolled back or is over."""
        self._end(ending, None)

    def end_since(self, watched: list[dict[str, Any]], seed_id: str) -> None:
        """The run went back to before `seed_id` germinated, and these windows are those of then; `watched` were open.

        Those opened since end with that; of the others, one that was reported closed meanwhile is not opened again.
        """
        before = {window.command_id for window in self._windows}
        still = {window["command_id"] for window in watched}
        self._windows = [window for window in self._windows if window.command_id in still]
        for window in (Window(**each) for each in watched if each["command_id"] not in before):
            ending = "rewound" if window.seed_id == seed_id else "rolled_back"
            self._windows.append(window if window.ended_as else replace(window, ended_as=ending))

    def epoch_ended(self, loss: float, hook_ms: float) -> None:
        """Add an epoch with this probe loss to every open window, and close those whose epochs have passed."""
        self._windows = [window if window.ended_as else self._older(window, loss, hook_ms) for window in self._windows]

    def report(self) -> list[ObservationWindow]:
        """All windows for the packet; closed ones are forgotten with this."""
        messages = [window.message() for window in self._windows]
        self._windows = [window for window in self._windows if not window.ended_as]
        return messages

    def state(self) -> list[dict[str, Any]]:
        """Everything, for a checkpoint."""
        return [asdict(window) for window in self._windows]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Go on from `state`."""
        self._windows = [Window(**window) for window in state]

    def _older(self, window: Window, loss: float, hook_ms: float) -> Window:
        age = window.age_epochs + 1
        return replace(
            window,
            age_epochs=age,
            loss_now=loss,
            loss_min=min(window.loss_min, loss),
            loss_max=max(window.loss_max, loss),
            hook_ms_total=window.hook_ms_total + hook_ms,
            ended_as="window" if age >= self._epochs else "",
        )

    def _end(self, ending: str, seed_id: str | None) -> None:
        self._windows = [
            replace(window, ended_as=ending)
            if not window.ended_as and (seed_id is None or window.seed_id == seed_id)
            else window
            for window in self._windows
        ]
