"""What facts say, apart from ids, clock times, durations and names of objects; and the digests of a recorded state.

Two facts with the same content did the same to the network. So histories of different runs, machines and days can be
compared, and a run that was killed and resumed is like one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import Measurement
from esper.errors import CorruptState, InvalidInput
from esper.leyline.envelope import Event, body_name, body_of
from esper.leyline.json_text import parsed
from esper.leyline.objects import ObjectStore

HOUSEKEEPING: Final = frozenset(
    {"run_started", "run_resumed", "checkpoint_saved", "checkpoint_pruned", "state_digested"}
)


"""Facts that change nothing: how the run was started and whether it was interrupted, and what is stored of it."""


_EVERYWHERE: Final = frozenset(
    {
        *("command_id", "decision_id", "packet_id", "training_run_id", "timestamp_ns"),
        *("apply_ms", "attach_ms", "prepare_ms", "commit_ms", "confirm_ms", "waited_ms", "duration_ms", "duration_s"),
        *("hook_ms_before", "hook_contended_ms_before", "hook_ms_mean", "wall_s", "deadline_exceeded"),
        *("hardware_context", "telemetry_shed"),
        *("checkpoint_ref", "to_sequence", "artifact_ref"),
        # Counted by each process for itself, from where it began:
        *("flops", "side_pass_flops", "probe_flops", "flops_training", "flops_measuring"),
    }
)


_IN_PACKETS: Final = frozenset(
    {
        *("evidence", "policy", "policy_seed", "sites", "params_budget", "epochs_total"),
        *("lifecycle", "rate_policy", "decay_from_epoch"),
    }
)


"""Of `epoch_completed`: settings that are told again, and measurements that act through the decisions they lead to."""


_METRICS_OF_TIME: Final = frozenset({"samples_per_s"})


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that two facts of one kind have different values in, by its path; None where one lacks it."""

    field: str
    a: Any
    b: Any


def content(event: Event) -> dict[str, Any]:
    """The event's fields by their paths, such as `seeds.0.alpha`, and the step and epoch at which it happened."""
    name, body = body_name(event), body_of(event)
    told = {"type": name, "step": event.global_step, "epoch": event.epoch}
    if name == "decision_made":
        chosen = body.actions[body.action] if body.action < len(body.actions) else f"action {body.action}"
        return {**told, "chosen": chosen}
    left_out = _EVERYWHERE | _IN_PACKETS if name == "epoch_completed" else _EVERYWHERE
    return {**told, **dict(_fields(body, "", left_out))}


def differences(a: Event, b: Event) -> list[Difference]:
    """The fields in which two events differ; none where they say the same. Not-a-number equals itself here."""
    left, right = content(a), content(b)
    names = [*left, *(name for name in right if name not in left)]
    return [
        Difference(name, left.get(name), right.get(name))
        for name in names
        if not _same(left.get(name), right.get(name))
    ]


def first_difference(a: Sequence[Event], b: Sequence[Event]) -> int | None:
    """The place of the first event that the other sequence does not have there; None where they are the same."""
    for place, (left, right) in enumerate(zip(a, b, strict=False)):
        if left.event_id != right.event_id and differences(left, right):
            return place
    return None if len(a) == len(b) else min(len(a), len(b))


def _same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def _fields(message: Any, prefix: str, left_out: AbstractSet[str]) -> Iterator[tuple[str, Any]]:
    for field, value in message.ListFields():
        if field.name in left_out:
            continue
        path = f"{prefix}{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            yield from ((f"{path}.{key}", value[key]) for key in sorted(value) if key not in _METRICS_OF_TIME)
        elif field.is_repeated:
            for place, each in enumerate(value):
                if field.message_type is Measurement.DESCRIPTOR and each.name.endswith("_ms"):
                    continue
                yield from _one(field, each, f"{path}.{place}", left_out)
        else:
            yield from _one(field, value, path, left_out)


def _one(field: Any, value: Any, path: str, left_out: AbstractSet[str]) -> Iterator[tuple[str, Any]]:
    if field.type == field.TYPE_MESSAGE:
        yield from _fields(value, f"{path}.", left_out)
    else:
        yield path, value.hex() if isinstance(value, bytes) else value


def tensor_digests(objects: ObjectStore, reference: str) -> dict[str, str]:
    """The digests behind a StateDigested's `tensors_ref`; none where they are damaged or gone, as from an export."""
    try:
        parts: dict[str, str] = parsed(objects.get(reference))
    except (InvalidInput, CorruptState, ValueError):
        return {}
    return parts
