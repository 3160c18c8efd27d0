"""What two runs were told to do differently, and where they ran: out of their first facts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import RunStarted
from esper.record.content import Difference

_OF_THE_MACHINE: Final = ("esper_version", "library_versions", "cpu_capability", "threads", "device")
_OF_THE_RUN: Final = ("control_of", "parent_run_id", "parent_sequence", "inherited", "fork_change", "weights_digest")


def settings(a: RunStarted, b: RunStarted) -> Iterator[Difference]:
    """What the two were told to do differently."""
    left, right = _configuration(a), _configuration(b)
    for name in sorted({*left, *right}):
        if left.get(name) != right.get(name):
            yield Difference(name, left.get(name), right.get(name))


def _configuration(begun: RunStarted) -> dict[str, Any]:
    """Settings by name; the nested ones dotted."""
    config: dict[str, Any] = json.loads(begun.config_json or "{}")
    named: dict[str, Any] = {
        "task": begun.task,
        "policy": begun.policy,
        "data": begun.data_fingerprint,
        "source": begun.task_source,
    }
    named |= {f"random.{stream}": seed for stream, seed in begun.seeds.items()}
    for name, value in config.items():
        if name in {*_OF_THE_MACHINE, *_OF_THE_RUN}:
            continue
        named |= (
            {f"{name}.{inner}": each for inner, each in value.items()} if isinstance(value, Mapping) else {name: value}
        )
    return named


def machine(a: RunStarted, b: RunStarted) -> Iterator[Difference]:
    """Where the two ran, as far as it can change a result."""
    for name in _OF_THE_MACHINE:
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, Mapping):
            left, right = dict(left), dict(right)
        if left != right:
            yield Difference(name, left, right)
