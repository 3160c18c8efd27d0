"""What is known of a run that goes on, folded from its events."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Final

from contracts.leyline.v1 import leyline_pb2
from contracts.topics import BY_BODY, RUNS
from esper.cli.events import headline, stage
from esper.leyline.envelope import Event, body_name, body_of
from esper.metric import Figure, figures_of_probe
from esper.record.accept import Fact, Tally, Verdict
from esper.tamiyo.reports import report_id

DECISIONS_SHOWN: Final = 4
DECISIONS_KEPT: Final = 64
"""More than are shown, because a rollback may take the newest back."""

DORMANT: Final = leyline_pb2.SEED_LIFECYCLE_STAGE_DORMANT

_AFTERWARDS: Final = frozenset(
    {
        leyline_pb2.SEED_LIFECYCLE_STAGE_EMBARGOED,
        leyline_pb2.SEED_LIFECYCLE_STAGE_RESETTING,
        leyline_pb2.SEED_LIFECYCLE_STAGE_DORMANT,
    }
)
"""Stages that a slot passes through after a life is over; they do not change what became of it."""

_TAKEN_BACK: Final = frozenset(
    {"run_started", "epoch_completed", "seed_transitioned", "seed_absorbed", "kernel_attached"}
)
"""Facts that show what a rollback takes back."""


@dataclass(slots=True)
class SeedView:
    """A seed slot as it is now."""

    seed_id: str
    site: str
    stage: str = "DORMANT"
    alpha: float = 0.0
    blueprint_id: str = ""
    opened_by: str = ""
    """The seed in whose place the slot opened, once that was part of the host's layers; empty for one of the start."""
    opened_epoch: int = 0


@dataclass(slots=True)
class Life:
    """One life of a slot, from germination on: what grew, how far it came and why it went no further."""

    seed_id: str
    site: str
    life: int
    blueprint_id: str
    parameters: int
    stage: str
    reason: str
    from_epoch: int
    to_epoch: int


@dataclass(slots=True)
class RunView:
    """One run. `apply` takes its events in the order of the log; a duplicate changes nothing.

    Seeds, their lives, decisions and the figures are those of the surviving timeline: a fact that does not count is
    left out with what answers it, and one that a rollback or a resume cut is taken back, by the rule of
    `esper.record.accept`.
    """

    run_id: str
    name: str = ""
    """What people call it: grown, control, static or fork."""
    started: Any = None
    finished: Any = None
    epoch: int = 0
    epochs_total: int = 0
    loss: float = float("nan")
    probe_loss: float = float("nan")
    probe_stderr: float = float("nan")
    checkpoint: str = ""
    figures: list[Figure] = field(default_factory=list)
    """The metrics on the probe set, the main one first."""
    parameters: int = 0
    seeds: dict[str, SeedView] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)
    events: int = 0
    _seen: set[bytes] = field(default_factory=set)
    _reports_due: set[bytes] = field(default_factory=set)
    _tally: Tally | None = field(default=None, compare=False)
    _shown: list[Event] = field(default_factory=list)  # the facts of the surviving timeline that are shown
    _packets: dict[bytes, int] = field(default_factory=dict)  # the sequences of packets, by id
    _void: set[bytes] = field(default_factory=set)  # packets that do not survive
    _told: deque[tuple[bytes, int, str]] = field(default_factory=lambda: deque(maxlen=DECISIONS_KEPT))

    def apply(self, event: Event) -> bool:
        """Take in one event; False for one that was seen before."""
        if event.event_id in self._seen:
            return False
        self._seen.add(event.event_id)
        self.events += 1
        if self._counts(event):
            self._show(event)
        return True

    @classmethod
    def of(cls, run_id: str, events: Iterable[Event]) -> RunView:
        """The view after all of `events`."""
        view = cls(run_id)
        for event in events:
            view.apply(event)
        return view

    def filled(self, followed: RunView | None) -> tuple[RunView, int]:
        """This view, of what is archived, and how many of the events that `followed` had from the log it lacks.

        Where it lacks any, it is `followed` that shows how the run is: a fact that is missing ends what counts.
        """
        lacks = followed.beyond(self._seen) if followed is not None else 0
        if followed is None or not lacks:
            return self, 0
        return replace(followed, events=self.events + lacks), lacks

    def beyond(self, seen: AbstractSet[bytes]) -> int:
        """How many events it has that are not among `seen`, ids of events."""
        return len(self._seen - seen)

    @property
    def decisions(self) -> list[tuple[int, str]]:
        """The last decisions and rollbacks, each with its epoch."""
        kept = [(epoch, text) for packet, epoch, text in self._told if packet not in self._void]
        return kept[-DECISIONS_SHOWN:]

    @property
    def complete(self) -> bool:
        """Whether the run is over and every report that its last windows are due was seen."""
        return self.finished is not None and self._reports_due <= self._seen

    def _counts(self, event: Event) -> bool:
        """Whether an event counts; one of another topic always does.

        A fork that went back behind its beginning is shown as it says itself: its parent's facts are not here.
        """
        name = body_name(event)
        if BY_BODY[name] is not RUNS:
            return True
        if self._tally is None:
            self._tally = Tally(event.run_id)
        fact = Fact(event.run_id, name, event.event_id, event.incarnation, event.sequence, body_of(event))
        counts = self._tally.take(fact) in {Verdict.ACCEPTED, Verdict.UNDECIDED}
        if name == "epoch_completed":
            self._packets[event.event_id] = event.sequence
            self._void |= set() if counts else {event.event_id}
        return counts

    def _show(self, event: Event) -> None:
        name = body_name(event)
        if name in _TAKEN_BACK:
            self._shown.append(event)
        handler = getattr(self, f"_on_{name}", None)
        if handler is not None:
            handler(event, body_of(event))

    def _go_back(self, sequence: int) -> None:
        """What the facts after `sequence` showed is shown no more."""
        self._void |= {packet for packet, place in self._packets.items() if place > sequence}
        begun, *later = self._shown
        self.epoch, self.loss, self.probe_loss, self.figures = 0, math.nan, math.nan, []
        self._shown, self.lives = [], []
        for event in (begun, *(each for each in later if each.sequence <= sequence)):
            self._show(event)

    def _on_run_started(self, _event: Event, body: Any) -> None:
        self.started = body
        self.epochs_total = body.epochs
        self.parameters = body.params_host
        self.seeds = {site.seed_id: SeedView(site.seed_id, site.site) for site in body.sites}
        for seen in body.inherited:
            view = self.seeds.setdefault(seen.seed_id, SeedView(seen.seed_id, ""))  # a slot may have opened since
            view.stage, view.alpha, view.blueprint_id = stage(seen.stage), seen.alpha, seen.blueprint_id

    def _on_run_resumed(self, _event: Event, body: Any) -> None:
        self.finished = None
        self._go_back(body.accepted_sequence)

    def _on_epoch_completed(self, event: Event, body: Any) -> None:
        self.epoch = event.epoch
        self.loss = body.state.training_loss
        self.probe_loss = body.state.validation_loss
        self.probe_stderr = body.probe_loss_stderr
        self.figures = figures_of_probe(body)
        self.parameters = body.params or self.parameters
        self._reports_due.update(report_id(window, event.run_id) for window in body.windows if window.closed)
        for seed in body.seeds:
            view = self.seeds.setdefault(seed.seed_id, SeedView(seed.seed_id, ""))
            view.stage, view.alpha, view.blueprint_id = stage(seed.stage), seed.alpha, seed.blueprint_id

    def _on_seed_transitioned(self, event: Event, body: Any) -> None:
        view = self.seeds.setdefault(body.seed_id, SeedView(body.seed_id, body.site))
        view.stage, view.alpha = stage(body.to_stage), body.alpha
        view.blueprint_id = "" if body.to_stage == DORMANT else body.blueprint_id or view.blueprint_id
        if body.from_stage == DORMANT:
            self.lives.append(
                Life(body.seed_id, body.site, body.life, body.blueprint_id, body.parameters, "", "", event.epoch, 0)
            )
        current = next((life for life in reversed(self.lives) if life.seed_id == body.seed_id), None)
        if current is None or body.to_stage in _AFTERWARDS:
            return
        current.stage, current.reason, current.to_epoch = view.stage, body.reason, event.epoch
        current.blueprint_id = body.blueprint_id or current.blueprint_id
        current.parameters = body.parameters or current.parameters

    def _on_seed_absorbed(self, event: Event, body: Any) -> None:
        self.seeds[body.opened] = SeedView(body.opened, body.site, opened_by=body.seed_id, opened_epoch=event.epoch)

    def _on_kernel_attached(self, _event: Event, body: Any) -> None:
        for life in reversed(self.lives):
            if life.seed_id == body.seed_id:
                life.parameters = body.module_parameters
                return

    def _on_checkpoint_saved(self, _event: Event, body: Any) -> None:
        self.checkpoint = body.ref

    def _on_decision_made(self, event: Event, body: Any) -> None:
        self._told.append((body.packet_id, event.epoch or self.epoch, headline(event)))

    def _on_rolled_back(self, event: Event, body: Any) -> None:
        self._go_back(body.to_sequence)
        told = headline(event) if body.level == "rewind" else f"rolled back: {headline(event)}"
        self._told.append((event.event_id, event.epoch, told))

    def _on_run_finished(self, _event: Event, body: Any) -> None:
        self.finished = body
        self.parameters = body.params_final or self.parameters
