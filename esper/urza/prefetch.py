"""The prefetch protocol as functions of a request, what was served, and the time: one answer a request, or a refusal.

A request must be signed (the reader sees to that), name its run, be at most 60 s old, and carry an id that was not used
before. What becomes of it is derived from the request's event id, so a redelivery makes the same events again.
Source: R-URZA-18 to R-URZA-22, R-OONA-9, R-OONA-10.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, Literal

from contracts.leyline.v1 import leyline_pb2
from contracts.leyline.v1.event_pb2 import BreakerChanged, SecurityViolation
from contracts.leyline.v1.leyline_pb2 import (
    CircuitBreakerState,
    KernelArtifactError,
    KernelArtifactReady,
    KernelPrefetchRequest,
    TelemetryEvent,
    TelemetryPacket,
)
from contracts.topics import KERNELS
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.urza.artifact import Expected, Refusal
from esper.urza.library import Served, Wanted
from esper.urza.version import Place

FRESHNESS_S: Final = 60.0
FUTURE_SKEW_S: Final = 5.0
NONCES: Final = 4_096
PRODUCER: Final = "urza"
_NS: Final = 1_000_000_000

Outcome = Literal[
    "accepted",
    "duplicate",
    "prefetch_incomplete",
    "prefetch_without_time",
    "prefetch_stale",
    "prefetch_from_the_future",
    "prefetch_replayed",
]
"""`duplicate` is the same event delivered again after it was answered: nothing is said, because it was said already."""


class Nonces:
    """The request ids that were answered, each with the event that used it; the oldest of 4,096 makes room."""

    def __init__(self, capacity: int = NONCES) -> None:
        self._capacity = capacity
        self._used: OrderedDict[str, bytes] = OrderedDict()
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._used)

    def user(self, request_id: str) -> bytes | None:
        """The event that used an id."""
        return self._used.get(request_id)

    def use(self, request_id: str, event_id: bytes) -> None:
        """An id is used up; call it once the answer is on the log, so that a failed attempt can be made again."""
        self._used.setdefault(request_id, event_id)
        if len(self._used) > self._capacity:
            self._used.popitem(last=False)
            self.evictions += 1

    def restore(self, event: Event) -> None:
        """Take over an answer that an earlier process gave."""
        match event.WhichOneof("body"):
            case "kernel_artifact_ready":
                self.use(event.kernel_artifact_ready.request_id, event.causation_id)
            case "kernel_artifact_error":
                self.use(event.kernel_artifact_error.request_id, event.causation_id)


def judge(event: Event, nonces: Nonces, *, now_ns: int) -> Outcome:
    """What is to become of a request whose signature holds, at the Unix time `now_ns`. Changes nothing."""
    request = event.kernel_prefetch_request
    if not (request.request_id and request.blueprint_id and request.training_run_id):
        return "prefetch_incomplete"
    user = nonces.user(request.request_id)
    if user == event.event_id:
        return "duplicate"
    if not request.HasField("issued_at"):
        return "prefetch_without_time"
    age_s = (now_ns - (request.issued_at.seconds * _NS + request.issued_at.nanos)) / _NS
    if age_s > FRESHNESS_S:
        return "prefetch_stale"
    if age_s < -FUTURE_SKEW_S:
        return "prefetch_from_the_future"
    return "accepted" if user is None else "prefetch_replayed"


def wanted(request: KernelPrefetchRequest) -> Wanted:
    """What a request asks for."""
    return Wanted(request.blueprint_id, Place.of(request.shape_kind, request.shape, request.parameters))


def answer(event: Event, served: Served, *, now_ns: int) -> list[Event]:
    """The one answer to an accepted request, after what must be told about how it came about.

    The reasons of an error are three, as the protocol has them: `artifact_not_found` (no version that may be served),
    `checksum_mismatch` (a check failed), `missing_artifact` (there is one, but it could not be had in time).
    """
    request = event.kernel_prefetch_request
    body: Any
    if served.version is not None and not served.fallback:
        body = KernelArtifactReady(
            request_id=request.request_id,
            blueprint_id=request.blueprint_id,
            artifact_ref=served.version.artifact_ref,
            checksum=served.version.checksum,
            guard_digest=served.version.guard_digest,
            prewarm_p50_ms=served.version.prewarm_p50_ms,
            prewarm_p95_ms=served.version.prewarm_p95_ms,
        )
    else:
        body = KernelArtifactError(
            request_id=request.request_id, blueprint_id=request.blueprint_id, reason=_wire_reason(served)
        )
    told = [] if served.refusal is None else [integrity_failure(event, served, now_ns=now_ns)]
    return [*told, _derived(event, body, "urza.prefetch", now_ns, leyline_pb2.MESSAGE_PRIORITY_NORMAL)]


def refusal(event: Event, outcome: Outcome, *, now_ns: int) -> Event:
    """The event that says that a request is not answered, and why."""
    request = event.kernel_prefetch_request
    detail = f"request {request.request_id!r} of run {request.training_run_id!r} for {request.blueprint_id!r}"
    body = SecurityViolation(reason=outcome, topic=KERNELS.name, detail=detail, subject_id=event.event_id)
    replayed = outcome == "prefetch_replayed"
    priority = leyline_pb2.MESSAGE_PRIORITY_CRITICAL if replayed else leyline_pb2.MESSAGE_PRIORITY_HIGH
    return _derived(event, body, f"urza.{outcome}", now_ns, priority)


def integrity_failure(event: Event, served: Served, *, now_ns: int) -> Event:
    """The event that says that an artifact failed a check and was not served."""
    assert served.refusal is not None
    assert served.version is not None
    expected = Expected.of_version(served.version)
    return refused_artifact(event, expected, served.refusal, now_ns=now_ns, producer=PRODUCER)


def refused_artifact(event: Event, expected: Expected, why: Refusal, *, now_ns: int, producer: str) -> Event:
    """The event by which `producer`, the library or a trainer, tells of an artifact that it refused after `event`."""
    attributes = {"artifact_ref": expected.artifact_ref, "blueprint_id": expected.blueprint_id, "detail": why.detail}
    body = _packet(event.event_id, why.reason, "an artifact failed a check and was not served", attributes, producer)
    return _derived(event, body, f"{producer}.integrity", now_ns, leyline_pb2.MESSAGE_PRIORITY_HIGH, producer=producer)


def breaker_changed(change: BreakerChanged, event: Event, ordinal: int, *, now_ns: int) -> Event:
    """The event that says that Urza's breaker changed while `event` was handled. A run's facts are its trainer's."""
    state = CircuitBreakerState.Name(change.to_state).removeprefix("CIRCUIT_BREAKER_STATE_").lower()
    body = _packet(event.event_id, f"breaker_{state}", f"the library's breaker is {state}: {change.reason}", {})
    name = f"urza.breaker.{ordinal}"
    return _derived(event, body, name, now_ns, leyline_pb2.MESSAGE_PRIORITY_HIGH)


def _wire_reason(served: Served) -> str:
    if served.refusal is not None:
        return "missing_artifact" if served.refusal.reason == "missing_artifact" else "checksum_mismatch"
    return "artifact_not_found" if served.fallback == "artifact_not_found" else "missing_artifact"


def _packet(
    cause: bytes, name: str, description: str, attributes: dict[str, str], source: str = PRODUCER
) -> TelemetryPacket:
    level = leyline_pb2.TELEMETRY_LEVEL_WARNING
    told = TelemetryEvent(event_id=name, description=description, level=level, attributes=attributes)
    return TelemetryPacket(packet_id=cause.hex(), source_subsystem=source, level=level, events=[told])


def _derived(
    event: Event,
    body: Any,
    handler: str,
    now_ns: int,
    priority: leyline_pb2.MessagePriority,
    *,
    producer: str = PRODUCER,
) -> Event:
    return new_event(
        body,
        event_id=ids.derived_id(event.event_id, handler),
        run_id=event.run_id,
        producer=producer,
        recorded_at_ns=now_ns,
        causation_id=event.event_id,
        correlation_id=event.correlation_id,
        priority=priority,
    )
