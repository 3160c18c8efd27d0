"""An artifact: initial weights (safetensors), a JSON manifest with guard and measurements, perhaps a compiler cache.

Each is an object by its SHA-256 and the manifest names the others, so its reference vouches for all of them. Nothing
here is ever unpickled, and nothing needs torch: Urza reads manifests without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from esper.errors import CorruptState
from esper.leyline.objects import ObjectStore

FORMAT: Final = 1
EAGER: Final = "eager"
COMPILED: Final = "compiled"
BATCH: Final = "batch"
"""Stands for the batch axis in the shapes of a guard: every size fits."""

WEIGHTS_FILE: Final = "weights.safetensors"
CACHE_FILE: Final = "compiler-cache.bin"
REPORT_FILE: Final = "report.json"

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


def guard_digest(guard: Sequence[GuardEntry]) -> str:
    """SHA-256 over the key-sorted JSON of a guard: the same guard gives the same digest everywhere (R-TEZ-19)."""
    content = json.dumps([dict(entry) for entry in guard], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def read_report(folder: Path) -> Report | None:
    """What a child left in `folder`; None where it did not come to its end, for the report is written last."""
    try:
        content = (folder / REPORT_FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return _report(json.loads(content))
    except (ValueError, KeyError, TypeError):
        return None


def store(objects: ObjectStore, folder: Path, report: Report) -> Artifact:
    """Put a child's work into the object store, durably, the manifest last. The same files give the same reference."""
    weights = (folder / WEIGHTS_FILE).read_bytes()
    cache = (folder / CACHE_FILE).read_bytes() if (folder / CACHE_FILE).exists() else b""
    manifest = {
        "format": FORMAT,
        **asdict(report),
        "weights_ref": objects.put(weights),
        "weights_bytes": len(weights),
        "cache_ref": objects.put(cache) if cache else "",
        "cache_bytes": len(cache),
    }
    content = json.dumps(manifest, sort_keys=True, indent=1).encode()
    return _artifact(objects.put(content), content)


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
        manifest = json.loads(content)
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
