"""Where a run that is trained again differs from its record: the place, the tensors by name, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from esper.errors import EsperError
from esper.leyline.envelope import Event, body_name, body_of
from esper.tolaria.script import SOURCE
from esper.tolaria.state import Digest, FlatState

_MEASURED: Final[dict[str, tuple[str, ...]]] = {
    "run_started": (
        "esper_version",
        "library_versions",
        "cpu_capability",
        "threads",
        "device",
        "config_json",
        "machine",
        "script",
    ),
    "run_finished": (
        *("wall_s", "telemetry_shed", "flops", "side_pass_flops", "probe_flops"),
        *("unproven", "test_accuracy_without", "test_loss_without", "metrics_without"),  # older ends do not say them
    ),
    "epoch_completed": (
        *("evidence", "duration_s", "hook_ms_before", "hook_contended_ms_before"),
        *("flops", "flops_training", "flops_measuring"),
        *("lifecycle", "rate_policy", "decay_from_epoch"),  # of the configuration, and older packets do not say them
    ),
    "decision_timed_out": ("waited_ms",),
    "command_applied": ("apply_ms",),
    "optimizer_changed": ("duration_ms",),
    "kernel_attached": ("attach_ms",),
    "checkpoint_saved": ("ref", "bytes", "duration_ms"),
    "checkpoint_pruned": ("bytes_freed",),
    "rolled_back": ("prepare_ms", "commit_ms", "confirm_ms", "deadline_exceeded", "checkpoint_ref"),
    "state_digested": ("root", "tensors_ref"),
    "breaker_changed": ("failures", "reason"),
}
"""Fields that another machine or moment makes different, by the fact's body: not compared. A digest's root is compared
before this, where the tensors are at hand."""

_MEASURED_BY: Final = frozenset({"run_started", "epoch_completed", "run_finished"})
"""Facts that say a run's metrics."""

_OF_PACKET: Final = ("packet_id", "timestamp_ns", "hardware_context", "training_metrics")


@dataclass(frozen=True, slots=True)
class Place:
    """A fact on record."""

    step: int
    epoch: int
    timeline: int
    sequence: int
    fact: str

    @classmethod
    def of(cls, fact: Event) -> Place:
        """The place of `fact`."""
        return cls(fact.global_step, fact.epoch, fact.timeline, fact.sequence, body_name(fact))


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference. `tensors` are the parts of the state that differ, in order of their names.

    `difference` is the largest one between the first tensor and the recorded one, None where the latter is not kept.
    """

    place: Place
    what: str
    tensors: tuple[str, ...] = ()
    difference: float | None = None

    def led_to(self, digest: Divergence) -> Divergence:
        """This, with what the next digest shows."""
        return replace(self, tensors=digest.tensors, difference=digest.difference)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self.place), "what": self.what, "tensors": list(self.tensors), "difference": self.difference}

    def __str__(self) -> str:
        where = f"step {self.place.step} (epoch {self.place.epoch}, sequence {self.place.sequence}, {self.place.fact})"
        if not self.tensors:
            return f"{where}: {self.what}"
        others = f" and {len(self.tensors) - 1} more" if len(self.tensors) > 1 else ""
        size = "" if self.difference is None else f" by up to {self.difference:.3g}"
        return f"{where}: {self.what}; {self.tensors[0]}{others} differ{'' if others else 's'}{size}"


class Diverged(EsperError):
    """A run that is trained again does not come to what its record says."""

    def __init__(self, divergence: Divergence) -> None:
        super().__init__(str(divergence))
        self.divergence = divergence


class RecordEnded(Exception):
    """The run failed or was interrupted on record where it goes on now: what ended it then was no part of it."""

    def __init__(self, end: Event) -> None:
        super().__init__(f"{end.run_finished.status}: {end.run_finished.reason}")
        self.end = end


def tampered(event: Event, fact: Event) -> str:
    """The difference between `event` and the recorded `fact`, without measured fields; an empty string for none."""
    for name in ("global_step", "epoch", "timeline"):
        if getattr(event, name) != getattr(fact, name):
            return f"{body_name(fact)} has {name} {getattr(fact, name)} on record and {getattr(event, name)} now"
    ours, recorded = (essence(each) for each in (event, fact))
    if body_name(fact) == "run_started" and recorded.task_source == SOURCE:  # known once its first batch comes
        for each in (ours, recorded):
            each.ClearField("data_fingerprint")
    if body_name(fact) in _MEASURED_BY and not recorded.metrics:
        _as_without_metrics(ours, recorded)
    if body_name(fact) == "epoch_completed" and not recorded.action_set:  # an older trainer told policies less
        for field in ("action_set", "risk_memory", "last_decision"):
            ours.ClearField(field)
    if body_name(fact) == "epoch_completed" and not recorded.HasField("normalizer"):
        ours.ClearField("normalizer")  # older packets do not say it
    if ours.SerializeToString(deterministic=True) == recorded.SerializeToString(deterministic=True):
        return ""
    fields = [
        field.name
        for field in ours.DESCRIPTOR.fields
        if str(getattr(ours, field.name)) != str(getattr(recorded, field.name))
    ]
    return f"{body_name(fact)} has another {', '.join(fields)} than on record"


def _as_without_metrics(ours: Any, recorded: Any) -> None:
    """Leave out what an older record does not say: metrics, and that accuracy is unknown where there are no classes."""
    ours.ClearField("metrics")
    fields = ours.DESCRIPTOR.fields_by_name
    pairs = [(ours, recorded, "test_accuracy")] if "test_accuracy" in fields else []
    pairs += [(ours.state, recorded.state, "validation_accuracy")] if "state" in fields else []
    for body, other, name in pairs:
        if math.isnan(getattr(body, name)):
            body.ClearField(name)
            other.ClearField(name)


def essence(event: Event) -> Any:
    """A copy of the body without what was measured."""
    name = body_name(event)
    body = type(body_of(event))()
    body.CopyFrom(body_of(event))
    for field in _MEASURED.get(name, ()):
        body.ClearField(field)
    if name == "epoch_completed":
        for field in _OF_PACKET:
            body.state.ClearField(field)
        for window in body.windows:
            window.ClearField("hook_ms_mean")
        if body.HasField("last_decision"):
            for field in ("packet_id", "decision_id", "command_id"):
                body.last_decision.ClearField(field)
    if name == "run_finished" and body.status != "completed":  # what ended by an error was not tested
        body.ClearField("test_accuracy")
        body.ClearField("test_loss")
        body.ClearField("metrics")
    return body


def difference_of(
    place: Place, found: Digest, recorded: Mapping[str, str], flat: FlatState, then: FlatState | None
) -> Divergence:
    """What differs between the state `flat` with the digest `found` and the one on record.

    `recorded` are the digests of its parts, empty where they are not kept; `then` is the state itself where that is.
    """
    if not recorded:
        return Divergence(place, "another state than on record, whose list of tensors is not kept")
    names = tuple(name for name in sorted({*found.parts, *recorded}) if found.parts.get(name) != recorded.get(name))
    return Divergence(place, "another state than on record", names, _size(names[0], flat, then) if names else None)


def _size(name: str, flat: FlatState, then: FlatState | None) -> float | None:
    if then is None or name not in flat.tensors or name not in then.tensors:
        return None
    now, before = flat.tensors[name], then.tensors[name]
    if now.shape != before.shape or not now.numel():
        return None
    return float((now.double() - before.double()).abs().max())
