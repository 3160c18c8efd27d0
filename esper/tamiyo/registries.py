"""Registries: which index an embedding table gives to a key, the same in every process and at every time.

A registry is a fixed list of keys in a fixed order; a key that is not in it gets one of the indices behind them by
SHA-256, never by Python's salted hash. So no file has to be kept, and a registry of the same digest gives the same
indices. The digests stand in the metadata of a policy's weights, and other weights than these are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from esper.errors import ContractViolation
from esper.kasmina.lifecycle import STAGES, name


@dataclass(frozen=True)
class Registry:
    """`keys` have the first indices; the rest up to `capacity` is for unknown ones, at least one of them."""

    name: str
    keys: tuple[str, ...]
    capacity: int
    _index: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.keys)) != len(self.keys) or len(self.keys) >= self.capacity:
            raise ContractViolation(
                f"registry {self.name}: {len(self.keys)} keys, some twice or too many for {self.capacity}"
            )
        object.__setattr__(self, "_index", {key: index for index, key in enumerate(self.keys)})

    def index(self, key: str) -> int:
        """Of `key`; two unknown keys may share one (R-TAM-6)."""
        known = self._index.get(key)
        if known is not None:
            return known
        number = int.from_bytes(hashlib.sha256(f"{self.name}/{key}".encode()).digest()[:8], "big")
        return len(self.keys) + number % (self.capacity - len(self.keys))

    @cached_property
    def digest(self) -> str:
        """SHA-256, hexadecimal, over the name, the capacity and every key with its index, in the keys' order."""
        content = [self.name, self.capacity, sorted(self._index.items())]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


BLUEPRINTS: Final = Registry("blueprint", tuple(f"BP{number:03d}" for number in range(1, 100)), 1024)
SHAPES: Final = Registry("layer_type", ("vector", "image", "signal", "token", "width", "heads"), 16)
STAGE_NAMES: Final = Registry("stage", tuple(name(stage) for stage in STAGES), 16)
LIFECYCLES: Final = Registry("lifecycle", ("full", "swift", "direct"), 8)
SCHEDULES: Final = Registry("schedule", ("cosine", "wsd", "constant"), 64)
BLENDINGS: Final = Registry("blending", ("linear", "cosine", "warmup_hold"), 16)
HAZARDS: Final = Registry("hazard_class", ("none", "low", "medium", "high", "critical"), 256)
KINDS: Final = Registry(
    "action",
    (
        "nothing",
        "germinate",
        "advance",
        "hold",
        "cull",
        "fossilize",
        "adjust",
        "pause",
        "breaker_open",
        "breaker_close",
    ),
    32,
)
"""Kinds of action; what a later Esper adds goes behind them by its hash until it is trained for."""

REGISTRIES: Final = (BLUEPRINTS, SHAPES, STAGE_NAMES, LIFECYCLES, SCHEDULES, BLENDINGS, HAZARDS, KINDS)


def digests() -> dict[str, str]:
    """The digest of every registry, by its name."""
    return {each.name: each.digest for each in REGISTRIES}
