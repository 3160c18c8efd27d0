"""A run to an OpenTelemetry collector: its spans and figures over OTLP/HTTP, with the times of the record.

Ids are derived from the run's, so that a run that is sent twice is the same trace.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from esper.errors import InvalidInput
from projections.interchange.figures import Point, Taken
from projections.interchange.libraries import library
from projections.interchange.spans import Span, spans_of

if TYPE_CHECKING:
    from projections.history import History

EXTRA: Final = "otlp"
SCOPE: Final = "esper"
_BATCH: Final = 512
_TIMEOUT_S: Final = 10


def send(history: History, run: Taken, endpoint: str) -> tuple[int, int]:
    """Send a run to `endpoint`, such as http://127.0.0.1:4318; how many spans and values it had.

    Raises InvalidInput where opentelemetry is not installed or nobody took them.
    """
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # each try that failed; what came of them is told
    spans = spans_of(history, run)
    _send_spans(run, spans, endpoint.rstrip("/"))
    _send_points(run, endpoint.rstrip("/"))
    return len(spans), len(run.points)


def _send_spans(run: Taken, spans: Sequence[Span], endpoint: str) -> None:
    exporter = library("opentelemetry.exporter.otlp.proto.http.trace_exporter", EXTRA).OTLPSpanExporter(
        endpoint=f"{endpoint}/v1/traces", timeout=_TIMEOUT_S
    )
    try:
        ready = list(_readable(run, spans))
        for begin in range(0, len(ready), _BATCH):
            _check(exporter.export(ready[begin : begin + _BATCH]), endpoint)
    finally:
        exporter.shutdown()


def _readable(run: Taken, spans: Iterable[Span]) -> Iterator[Any]:
    """The spans as the SDK has finished ones."""
    trace, sdk = library("opentelemetry.trace", EXTRA), library("opentelemetry.sdk.trace", EXTRA)
    scope = library("opentelemetry.sdk.util.instrumentation", EXTRA).InstrumentationScope(SCOPE)
    trace_id = int.from_bytes(_derived(run.run_id, "trace")[:16], "big")

    def context(path: Sequence[str]) -> Any:
        span_id = int.from_bytes(_derived(run.run_id, *path)[:8], "big")
        return trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=trace.TraceFlags(1))

    for each in spans:
        failed = run.status == "failed" and len(each.path) == 1
        yield sdk.ReadableSpan(
            name=each.name,
            context=context(each.path),
            parent=context(each.path[:-1]) if len(each.path) > 1 else None,
            resource=_resource(run, each.service),
            attributes=_plain(each.said),
            events=[sdk.Event(name, _plain(said), at_ns) for at_ns, name, said in each.events],
            instrumentation_scope=scope,
            status=trace.Status(trace.StatusCode.ERROR if failed else trace.StatusCode.UNSET),
            start_time=each.began_ns,
            end_time=each.ended_ns,
        )


def _send_points(run: Taken, endpoint: str) -> None:
    data = library("opentelemetry.sdk.metrics.export", EXTRA)
    scope = library("opentelemetry.sdk.util.instrumentation", EXTRA).InstrumentationScope(SCOPE)
    exporter = library("opentelemetry.exporter.otlp.proto.http.metric_exporter", EXTRA).OTLPMetricExporter(
        endpoint=f"{endpoint}/v1/metrics", timeout=_TIMEOUT_S
    )
    try:
        resource, ordered = _resource(run, "esper-trainer"), sorted(run.points, key=lambda each: (each.name, each.at))
        for begin in range(0, len(ordered), _BATCH):
            metrics = [
                data.Metric(name, "", "", data.Gauge([_number(data, run, each) for each in points]))
                for name, points in groupby(ordered[begin : begin + _BATCH], key=_metric)
            ]
            scoped = data.ScopeMetrics(scope, metrics, "")
            _check(exporter.export(data.MetricsData([data.ResourceMetrics(resource, [scoped], "")])), endpoint)
    finally:
        exporter.shutdown()


def _metric(point: Point) -> str:
    """A metric's name has no seed in it: that is an attribute."""
    parts = point.name.split("/")
    return ".".join(("esper", parts[0], *(parts[2:] if parts[0] == "seeds" else parts[1:])))


def _number(data: Any, run: Taken, point: Point) -> Any:
    parts = point.name.split("/")
    attributes = {"esper.seed": parts[1]} if parts[0] == "seeds" else {}
    return data.NumberDataPoint(attributes, run.started_ns, point.time_ns, point.value)


def _resource(run: Taken, service: str) -> Any:
    made = library("opentelemetry.sdk.resources", EXTRA).Resource
    said = {"service.name": service, "esper.run_id": run.run_id, "esper.task": run.task}
    return made(said | {"service.version": run.tags.get("esper.esper_version", "")})


def _plain(said: dict[str, Any]) -> dict[str, Any]:
    """Attributes as OpenTelemetry takes them."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in said.items()
        if value is not None
    }


def _derived(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(("esper.otlp", *parts)).encode()).digest()


def _check(result: Any, endpoint: str) -> None:
    if result.name != "SUCCESS":
        raise InvalidInput(
            f"nobody took the run at {endpoint}: is an OpenTelemetry collector there, with OTLP over HTTP? "
            "deploy/otel-collector.yaml starts one"
        )
