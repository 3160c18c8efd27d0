"""The static run of an `esper run`: once growth is over, what grew is trained from its first step, for as many FLOPs.

A person who doubts growth would do just that, so it is the fair comparison: the control run, which did not grow, spent
fewer FLOPs. It cannot begin before the grown run has ended, because before nobody knows the structure.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from esper.cli.history import static_of
from esper.cli.output import complain
from esper.cli.run_view import RunView
from esper.cli.trainers import Trainer, Trainers
from esper.errors import EsperError
from esper.tolaria.config import RunConfig
from esper.tolaria.structure import structure_at
from esper.weatherlight.beginning import Plan
from streams.objects import object_store


class StaticArm:
    """The static run that belongs to a run of this configuration; `waiting` until it is known whether there is one."""

    def __init__(self, run_id: str, grown: RunConfig, data_dir: Path) -> None:
        self.run_id = static_of(run_id)
        self.waiting = True
        self.trainer: Trainer | None = None
        self._grown_id = run_id
        self._grown = grown
        self._objects = object_store(data_dir)

    def start(self, grown: RunView, trainers: Trainers) -> bool:
        """Have it prepared, now that the grown run is over; False where there is nothing that it could show.

        A run that did not complete has no end to compare with, and one in which nothing grew is its own control.
        """
        self.waiting = False
        config = self.config_beside(grown)
        if config is None:
            return False
        self.trainer = trainers.add("static", self.run_id, config, Plan(fresh=True))
        return True

    def begin(self, brokers: str) -> None:
        """Let it train as soon as it is prepared."""
        if self.trainer is not None and self.trainer.prepared.is_set():
            self.trainer.begin(brokers)
            self.trainer = None

    def config_beside(self, grown: RunView) -> RunConfig | None:
        """Its configuration, by what the grown run came to; None where there is nothing that it could show."""
        end = grown.finished
        if end is None or end.status != "completed" or not grown.checkpoint:
            return None
        try:
            structure = structure_at(self._objects, grown.checkpoint, grown.started.sites)
        except EsperError as error:
            complain(f"there is no static run to compare with: {error}")
            return None
        if not structure:
            return None
        return replace(
            self._grown,
            policy="none",
            control_of="",
            static_of=self._grown_id,
            structure=structure,
            flops_budget=end.flops,
            epochs=None,
        )
