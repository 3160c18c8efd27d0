"""The files between the forge and the child of one attempt: an order goes in, a report or a failure comes out.

A child works in a folder of its own. The order is there before it starts; the report is written last and renamed into
place, so a folder with a report is complete even where the forge was killed meanwhile. What the report describes is
stored in Urza's library (`esper.urza.artifact`). Nothing here is unpickled, and nothing needs torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from esper.errors import CorruptState
from esper.leyline.json_text import parsed
from esper.leyline.objects import ObjectStore
from esper.tezzeret.jobs import Job
from esper.urza import artifact as urza
from esper.urza.artifact import FORMAT, check_size, guard_digest

ORDER_FILE: Final = "order.json"
FAILURE_FILE: Final = "failure.json"
REFUSED: Final = "refused"
"""The kind of a failure that no repetition can change, such as a template that nobody approved."""


@dataclass(frozen=True, slots=True)
class Order:
    """One attempt at a job. `requested` is the pipeline that was asked for, `pipeline` the one that this attempt is."""

    job_id: str
    blueprint_id: str
    shape_kind: str
    shape: tuple[int, ...]
    parameters: Mapping[str, float]
    requested: str
    pipeline: str
    attempt: int
    memory_bytes: int
    approved: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. `kind` is refused, memory, timeout or error; `reason` is one line."""

    kind: str
    reason: str


def order_of(job: Job, pipeline: str, memory_bytes: int, *, approved: bool) -> Order:
    """The order for the next attempt at `job`."""
    return Order(
        job_id=job.job_id,
        blueprint_id=job.blueprint_id,
        shape_kind=job.shape_kind,
        shape=job.shape,
        parameters=dict(job.parameters),
        requested=job.pipeline,
        pipeline=pipeline,
        attempt=job.next_attempt,
        memory_bytes=memory_bytes,
        approved=approved,
    )


def write_order(folder: Path, order: Order) -> None:
    """Leave the order for the child."""
    write_whole(folder / ORDER_FILE, json.dumps(asdict(order)).encode())


def read_order(folder: Path) -> Order:
    """The order that the forge left."""
    values: dict[str, Any] = json.loads((folder / ORDER_FILE).read_bytes())
    return Order(**{**values, "shape": tuple(values["shape"])})


def write_failure(folder: Path, failure: Failure) -> None:
    """Leave the reason for the forge."""
    write_whole(folder / FAILURE_FILE, json.dumps(asdict(failure)).encode())


def read_failure(folder: Path) -> Failure | None:
    """The reason that the child left; None where it left none, as when it was killed."""
    try:
        return Failure(**json.loads((folder / FAILURE_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, and durable when this returns."""
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


EAGER: Final = "eager"
COMPILED: Final = "compiled"
BATCH: Final = "batch"
"""Stands for the batch axis in the shapes of a guard: every size fits."""
WEIGHTS_FILE: Final = "weights.safetensors"
CACHE_FILE: Final = "compiler-cache.bin"
REPORT_FILE: Final = "report.json"
READY_FILE: Final = "ready"
"""There as soon as the child has loaded torch."""
GuardEntry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Prewarm:
    """Processor time of one training pass (forward and backward) of the form that serves, at one batch size."""

    batch: int
    p50_ms: float
    p95_ms: float
    samples: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a child found out about one kernel: the manifest without the references.

    `form` is what serves. `eager_fallback` says that it should have been compiled and could not be, `reason` why it is
    eager. `eager_us` and `compiled_us` are medians of one training pass's processor time at the largest batch, 0 where
    not measured; `max_difference` is between the two forms' outputs, relative to the largest output where that is above
    1.
    """

    job_id: str
    blueprint_id: str
    shape_kind: str
    shape: tuple[int, ...]
    parameters: Mapping[str, float]
    pipeline: str
    attempt: int
    form: str
    eager_fallback: bool
    reason: str
    guard: tuple[GuardEntry, ...]
    guard_digest: str
    eager_us: float
    compiled_us: float
    compile_ms: float
    max_difference: float
    prewarm: tuple[Prewarm, ...]
    toolchain: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored artifact. `bytes` is the size of all its objects; `cache_ref` is empty where there is no cache.

    The cache is torch's own format, which torch unpickles: whoever loads it must have its reference from a signed
    event.
    """

    ref: str
    report: Report
    weights_ref: str
    cache_ref: str
    bytes: int

    @property
    def checksum(self) -> str:
        """SHA-256 of the manifest in hex, which covers the other objects by their references."""
        return self.ref.removeprefix("sha256:")

    @property
    def prewarm_p50_ms(self) -> float:
        """At the largest batch."""
        return self.report.prewarm[-1].p50_ms

    @property
    def prewarm_p95_ms(self) -> float:
        """At the largest batch."""
        return self.report.prewarm[-1].p95_ms


def read_report(folder: Path) -> Report | None:
    """What a child left in `folder`; None where it did not come to its end, for the report is written last."""
    try:
        content = (folder / REPORT_FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return _report(parsed(content))
    except (ValueError, KeyError, TypeError):
        return None


def store(objects: ObjectStore, folder: Path, report: Report) -> Artifact:
    """Put a child's work into Urza's library. The same files give the same reference.

    Raises InvalidInput where weights and cache are more than the library takes.
    """
    cache = folder / CACHE_FILE
    check_size(sum(path.stat().st_size for path in (folder / WEIGHTS_FILE, cache) if path.exists()))
    weights = (folder / WEIGHTS_FILE).read_bytes()
    ref = urza.store(objects, asdict(report), weights, cache.read_bytes() if cache.exists() else b"")
    return read(objects, ref)


def read(objects: ObjectStore, ref: str) -> Artifact:
    """The artifact behind `ref`; its weights and cache are there, too, but not yet checked.

    Raises InvalidInput where an object of it is missing and CorruptState where the manifest was changed or is none.
    """
    artifact = _artifact(ref, objects.get(ref))
    for part in (artifact.weights_ref, artifact.cache_ref):
        if part and part not in objects:
            objects.get(part)  # says which object is missing, and where
    return artifact


def _artifact(ref: str, content: bytes) -> Artifact:
    try:
        manifest = parsed(content)
        if manifest["format"] != FORMAT:
            raise CorruptState(f"artifact {ref} has format {manifest['format']}; this Esper reads {FORMAT}")
        report = _report(manifest)
        size = len(content) + manifest["weights_bytes"] + manifest["cache_bytes"]
        artifact = Artifact(ref, report, manifest["weights_ref"], manifest["cache_ref"], size)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptState(f"object {ref} is no artifact: {error}") from None
    if report.guard_digest != guard_digest(report.guard):
        raise CorruptState(f"artifact {ref}: its guard is not the one of its digest {report.guard_digest}")
    return artifact


def _report(values: Mapping[str, Any]) -> Report:
    known = {field.name: values[field.name] for field in fields(Report)}
    known["shape"] = tuple(values["shape"])
    known["guard"] = tuple(values["guard"])
    known["prewarm"] = tuple(Prewarm(**sample) for sample in values["prewarm"])
    return Report(**known)
