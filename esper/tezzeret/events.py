"""The events that the forge publishes. Ids are derived from job and attempt, so the same twice counts once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from contracts.leyline.v1 import leyline_pb2
from contracts.leyline.v1.event_pb2 import (
    ArtifactStored,
    BreakerChanged,
    CompileFailed,
    CompileFinished,
    CompileParked,
    CompileRequested,
    CompileStarted,
)
from contracts.leyline.v1.leyline_pb2 import KernelCatalogUpdate
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.tezzeret.jobs import Job, prefetch_request_id, request, request_id
from esper.tezzeret.results import Artifact

PRODUCER: Final = "tezzeret"
REASON_CHARACTERS: Final = 500


def requested(
    body: CompileRequested,
    now_ns: int,
    *,
    producer: str,
    priority: leyline_pb2.MessagePriority = leyline_pb2.MESSAGE_PRIORITY_NORMAL,
    attempts_made: int = 0,
) -> Event:
    """A request for a kernel. `attempts_made` is that of a parked job which is asked for again."""
    return new_event(
        body,
        event_id=request_id(body.job_id, attempts_made),
        run_id="",
        producer=producer,
        recorded_at_ns=now_ns,
        priority=priority,
    )


def requested_by_prefetch(asked: Event, now_ns: int) -> Event:
    """The request that follows from a prefetch of what is not stored: of low priority, so it waits for idle cores."""
    wanted = asked.kernel_prefetch_request
    body = request(wanted.blueprint_id, wanted.shape_kind, wanted.shape, dict(wanted.parameters))
    return new_event(
        body,
        event_id=prefetch_request_id(body.job_id),
        run_id="",
        producer=PRODUCER,
        recorded_at_ns=now_ns,
        causation_id=asked.event_id,
        priority=leyline_pb2.MESSAGE_PRIORITY_LOW,
    )


def started(job: Job, attempt: int, pipeline: str, now_ns: int) -> Event:
    """An attempt begins."""
    body = CompileStarted(job_id=job.job_id, blueprint_id=job.blueprint_id, attempt=attempt, pipeline=pipeline)
    return _event(job, body, "started", attempt, now_ns)


def retries(job: Job, attempt: int, now_ns: int) -> Event:
    """Telemetry at the start of an attempt: how many came before it since the kernel was asked for (R-NIS-8)."""
    event_id = ids.derived_id(ids.from_text(job.job_id), "tezzeret.retries", attempt)
    point = leyline_pb2.MetricPoint(name="tezzeret.compile.retry_count", value=attempt - job.base - 1, unit="attempts")
    return _telemetry(
        leyline_pb2.TelemetryPacket(level=leyline_pb2.TELEMETRY_LEVEL_INFO, metrics=[point]), event_id, now_ns
    )


def finished(job: Job, artifact: Artifact, now_ns: int) -> Event:
    """An attempt succeeded and its artifact is in the object store."""
    report = artifact.report
    body = CompileFinished(
        job_id=job.job_id,
        blueprint_id=job.blueprint_id,
        artifact_ref=artifact.ref,
        form=report.form,
        compile_ms=report.compile_ms,
        eager_us=report.eager_us,
        compiled_us=report.compiled_us,
        prewarm_p50_ms=artifact.prewarm_p50_ms,
        prewarm_p95_ms=artifact.prewarm_p95_ms,
        attempt=report.attempt,
    )
    return _event(job, body, "finished", report.attempt, now_ns)


def published(job: Job, artifact: Artifact, version: int, now_ns: int) -> list[Event]:
    """The events that publish a finished job's artifact, as far as they are missing: stored, then in the catalogue."""
    report = artifact.report
    stored = ArtifactStored(
        blueprint_id=job.blueprint_id,
        artifact_ref=artifact.ref,
        artifact_version=version,
        checksum=artifact.checksum,
        guard_digest=report.guard_digest,
        bytes=artifact.bytes,
        form=report.form,
    )
    catalogued = KernelCatalogUpdate(
        blueprint_id=job.blueprint_id,
        artifact_ref=artifact.ref,
        checksum=artifact.checksum,
        guard_digest=report.guard_digest,
        compile_ms=report.compile_ms,
        prewarm_ms=artifact.prewarm_p50_ms,
    )
    events = [] if job.stored else [_event(job, stored, "stored", report.attempt, now_ns)]
    told = job.stage == "catalogued"
    return events + ([] if told else [_event(job, catalogued, "catalogued", report.attempt, now_ns)])


def failed(job: Job, attempt: int, reason: str, now_ns: int, *, will_retry: bool) -> Event:
    """An attempt failed."""
    body = CompileFailed(
        job_id=job.job_id,
        blueprint_id=job.blueprint_id,
        reason=reason[:REASON_CHARACTERS],
        attempt=attempt,
        will_retry=will_retry,
    )
    return _event(job, body, "failed", attempt, now_ns)


def parked(job: Job, attempt: int, reason: str, now_ns: int) -> Event:
    """A job is given up until someone asks for it again."""
    body = CompileParked(job_id=job.job_id, blueprint_id=job.blueprint_id, reason=reason[:REASON_CHARACTERS])
    return _event(job, body, "parked", attempt, now_ns)


def eager_fallback(job: Job, artifact: Artifact, now_ns: int) -> Event:
    """The warning that a kernel was to be compiled and is eager instead (R-TEZ-13)."""
    reason = artifact.report.reason[:REASON_CHARACTERS]
    attributes = {"job_id": job.job_id, "blueprint_id": job.blueprint_id, "reason": reason}
    cause = ids.derived_id(ids.from_text(job.job_id), "tezzeret.eager_fallback", artifact.report.attempt)
    return _warning(cause, "eager_fallback", "a kernel could not be compiled and is eager", attributes, now_ns)


def breaker_changed(change: BreakerChanged, now_ns: int, random_bits: bytes) -> Event:
    """The warning that a breaker changed. A run's facts are its trainer's alone, so this is telemetry."""
    attributes = {
        "breaker": change.breaker,
        "from": leyline_pb2.CircuitBreakerState.Name(change.from_state),
        "to": leyline_pb2.CircuitBreakerState.Name(change.to_state),
        "reason": change.reason[:REASON_CHARACTERS],
    }
    description = f"breaker {change.breaker}: {change.reason}"
    return _warning(ids.uuid7(now_ns, random_bits), "breaker_changed", description, attributes, now_ns)


def _warning(event_id: bytes, name: str, description: str, attributes: Mapping[str, str], now_ns: int) -> Event:
    """A packet with one WARNING called `name`, a word of a small set: Nissa counts warnings by it."""
    level = leyline_pb2.TELEMETRY_LEVEL_WARNING
    told = leyline_pb2.TelemetryEvent(
        event_id=name, description=description[:REASON_CHARACTERS], level=level, attributes=attributes
    )
    return _telemetry(leyline_pb2.TelemetryPacket(level=level, events=[told]), event_id, now_ns)


def _telemetry(packet: leyline_pb2.TelemetryPacket, event_id: bytes, now_ns: int) -> Event:
    packet.packet_id = ids.text(event_id)
    packet.source_subsystem = PRODUCER
    packet.timestamp.FromNanoseconds(now_ns)
    return new_event(packet, event_id=event_id, run_id="", producer=PRODUCER, recorded_at_ns=now_ns)


def _event(job: Job, body: Any, what: str, attempt: int, now_ns: int) -> Event:
    job_bytes = ids.from_text(job.job_id)
    return new_event(
        body,
        event_id=ids.derived_id(job_bytes, f"tezzeret.{what}", attempt),
        run_id="",
        producer=PRODUCER,
        recorded_at_ns=now_ns,
        causation_id=request_id(job.job_id, job.base),
        correlation_id=job_bytes,
    )
