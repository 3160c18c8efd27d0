"""A stored version as the catalogue knows it, how it is asked for, and how long it is served."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from contracts.leyline.v1.leyline_pb2 import BlueprintTier
from esper.errors import InvalidInput

State = Literal["active", "validated", "deprecated", "rejected"]
"""The last of its line; an older one that a run attached; an older one that none did; approval withdrawn. The catalogue
computes it (`projections/sql/library/versions.sql`); docs/blueprints.md draws what moves a version between them."""
DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class Place:
    """Which seeds a version is for: the shape of one sample's activation and the blueprint's settings."""

    shape_kind: str
    shape: tuple[int, ...]
    parameters: str = "{}"

    @classmethod
    def of(cls, shape_kind: str, shape: Sequence[int], parameters: Mapping[str, float]) -> Place:
        """The place with its settings in the one form that can be compared."""
        return cls(shape_kind, tuple(shape), settings_key(parameters))

    @property
    def settings(self) -> dict[str, float]:
        """The settings by name, as the shortest numbers that are these in 32 bits: 0.1, not 0.10000000149."""
        return {name: _shortest(value) for name, value in json.loads(self.parameters).items()}


@dataclass(frozen=True, slots=True)
class Version:
    """One stored artifact as the catalogue has it. Times `_ms` ending in `at_ms` are the log's, Unix milliseconds.

    `checksum` is the SHA-256 (hex) of the manifest's bytes, as in `artifact_ref`, and `guard_digest` that of the
    guard's JSON (`esper.urza.artifact.guard_digest`). `is_approved` says that its blueprint is registered, and approved
    where its kind needs that.
    `since_ms` is when it came into its `state`.
    """

    artifact_ref: str
    blueprint_id: str
    version: int
    checksum: str
    guard_digest: str
    bytes: int
    form: str
    stored_at_ms: int
    place: Place
    compile_ms: float
    eager_us: float
    compiled_us: float
    prewarm_p50_ms: float
    prewarm_p95_ms: float
    attachments: int
    name: str
    tier: BlueprintTier
    stage: int
    risk: float
    hazard_band: int
    handling_class: int
    tags: tuple[str, ...]
    is_approved: bool
    quarantine_only: bool
    state: State
    since_ms: int


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for; every part that is set must hold. The lowest risk comes first, then ids, then the newest.

    Tags are compared without case; `match_tags` says whether all or any of them must be there. By default only
    versions that anyone may use now are found: `unapproved` adds those that wait for an approval, `quarantine` the
    stressors, and `older` those that are no longer the last of their line. Raises InvalidInput for a limit outside 1 to
    100.
    """

    blueprint_id: str | None = None
    tier: BlueprintTier | None = None
    stage: int | None = None
    tags: tuple[str, ...] = ()
    match_tags: Literal["all", "any"] = "all"
    place: Place | None = None
    unapproved: bool = False
    quarantine: bool = False
    older: bool = False
    limit: int = DEFAULT_LIMIT

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidInput(f"a query returns 1 to {MAX_LIMIT} versions, not {self.limit}")


class Catalogue(Protocol):
    """Where versions are looked up. A call may block; `interrupt` ends one that is running in another thread."""

    def find(self, query: Query) -> list[Version]:
        """The versions that `query` asks for."""

    def interrupt(self) -> None:
        """End the lookup that is running now, if there is one."""


MonotonicS = Callable[[], float]
"""Seconds on a clock that never goes back."""


def settings_key(parameters: Mapping[str, float]) -> str:
    """Settings as text that is equal where they are: names in order, values in 32 bits, as commands carry them."""
    return json.dumps({name: _single(value) for name, value in sorted(parameters.items())}, separators=(",", ":"))


def _shortest(value: float) -> float:
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next((each for each in candidates if _single(each) == value), value)


def _single(value: float) -> float:
    try:
        single: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:  # no setting is that large; as text it is like no other
        return value
    return single


DAY_MS: Final = 24 * 60 * 60 * 1000
KEPT_DAYS: Final[Mapping[State, int | None]] = {"active": None, "validated": 365, "deprecated": 90, "rejected": 30}


def archived(version: Version, now_ms: int) -> bool:
    """Whether the time of a version is over at the Unix time `now_ms`."""
    days = KEPT_DAYS[version.state]
    return days is not None and now_ms - version.since_ms > days * DAY_MS
