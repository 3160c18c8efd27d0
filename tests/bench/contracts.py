"""How large the messages are and how long they take: `python -m tests.bench.contracts`, about five seconds.

Reference fixtures: a state packet with five metrics and one metric a seed, a command with three annotations, a field
report with five deltas and one follow-up, a telemetry packet with two metrics and one event; ids of 16 bytes in the
envelope (36 characters where a message wants text), run ids of 8 characters. One thread; each figure is over 2,000
calls after 200 to warm up.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.leyline import envelope, limits
from esper.leyline.signing import KeyRing
from esper.leyline.verifier import CommandVerifier
from tests.bench.table import Row

NOW_NS = 1_750_000_000_123_456_789
UUID = "0197a3f0-5c1e-7d2a-9b4f-3c2d1e0f9a8b"
CALLS, WARM_UP = 2_000, 200
WRAP_US, CHECK_US = 20.0, 20.0
"""R-LEY-10 and R-LEY-13."""


def state_packet(seeds: int) -> leyline_pb2.SystemStatePacket:
    """What the trainer says of itself at the end of an epoch."""
    metrics = ("loss", "accuracy", "gradient_norm", "samples_per_s", "hook_latency_ms")
    packet = leyline_pb2.SystemStatePacket(
        version=1,
        current_epoch=12,
        validation_accuracy=0.9171,
        validation_loss=0.2764,
        timestamp_ns=NOW_NS,
        training_metrics={name: 0.1 + index for index, name in enumerate(metrics)},
        packet_id=UUID,
        global_step=1_234,
        training_loss=0.2311,
        source_subsystem="tolaria",
        training_run_id="k3f9x2qa",
        experiment_name="digits",
    )
    packet.hardware_context.device_type = "cpu"
    packet.hardware_context.total_memory_gb = 16.0
    packet.hardware_context.available_memory_gb = 9.5
    packet.hardware_context.utilization_percent = 97.5
    for number in range(1, seeds + 1):
        packet.seed_states.add(
            seed_id=f"s{number}",
            stage=leyline_pb2.SEED_LIFECYCLE_STAGE_TRAINING,
            gradient_norm=0.31,
            learning_rate=0.05,
            layer_depth=number,
            metrics={"alpha": 0.4},
            age_epochs=3,
            risk_score=0.2,
        )
    return packet


def command() -> leyline_pb2.AdaptationCommand:
    """Germinate a seed."""
    made = leyline_pb2.AdaptationCommand(
        version=1,
        command_id=UUID,
        command_type=leyline_pb2.COMMAND_TYPE_SEED,
        target_seed_id="s1",
        execution_deadline_ms=2_000,
        issued_by="tamiyo",
        annotations={"risk": "0.12", "policy": "heuristic-1", "site": "stage2"},
    )
    made.issued_at.FromNanoseconds(NOW_NS)
    made.seed_operation.operation = leyline_pb2.SEED_OPERATION_GERMINATE
    made.seed_operation.blueprint_id = "BP009"
    made.seed_operation.parameters["width"] = 16.0
    return made


def field_report() -> leyline_pb2.FieldReport:
    """What became of a command."""
    deltas = ("loss_delta", "accuracy_delta", "param_delta", "hook_ms", "risk")
    report = leyline_pb2.FieldReport(
        version=1,
        report_id=UUID,
        command_id=UUID,
        training_run_id="k3f9x2qa",
        seed_id="s1",
        blueprint_id="BP009",
        outcome=leyline_pb2.FIELD_REPORT_OUTCOME_SUCCESS,
        metrics={name: -0.01 * index for index, name in enumerate(deltas, 1)},
        observation_window_epochs=5,
        tamiyo_policy_version="heuristic-1",
    )
    report.issued_at.FromNanoseconds(NOW_NS)
    report.follow_up_actions.add(action_type="CONSERVATIVE_MODE", rationale="loss rose")
    return report


def telemetry_packet() -> leyline_pb2.TelemetryPacket:
    """Two metrics and one event of Kasmina."""
    packet = leyline_pb2.TelemetryPacket(
        packet_id=UUID, source_subsystem="kasmina", level=leyline_pb2.TELEMETRY_LEVEL_WARNING
    )
    packet.timestamp.FromNanoseconds(NOW_NS)
    packet.metrics.add(name="kasmina.seeds.active", value=1.0, unit="count", attributes={"seed": "s1"})
    packet.metrics.add(name="kasmina.isolation.violations", value=1.0, unit="count")
    packet.events.add(event_id=UUID, description="seed_forward_error", level=leyline_pb2.TELEMETRY_LEVEL_WARNING)
    return packet


def wrap(body: Any) -> event_pb2.Event:
    """`body` in an envelope with everything that a fact can have; a state packet travels inside its epoch's event."""
    if isinstance(body, leyline_pb2.SystemStatePacket):
        body = event_pb2.EpochCompleted(state=body)
    return envelope.new_event(
        body,
        event_id=bytes(range(16)),
        run_id="k3f9x2qa",
        producer="trainer",
        recorded_at_ns=NOW_NS,
        causation_id=bytes(range(16)),
        correlation_id=bytes(range(16)),
        sequence=1_234,
        incarnation=1,
        timeline=1,
        global_step=1_234,
        epoch=12,
    )


BLOB = event_pb2.DeadLettered(record=bytes(200))
BODIES: dict[str, Callable[[], Any]] = {
    "state packet, one seed": lambda: state_packet(1),
    "state packet, ten seeds": lambda: state_packet(10),
    "adaptation command": command,
    "field report": field_report,
    "telemetry packet": telemetry_packet,
}


def payload_bytes(name: str) -> int:
    """Size of the message alone."""
    return len(BODIES[name]().SerializeToString())


def envelope_bytes(name: str) -> int:
    """What the envelope adds to the message."""
    return len(wrap(BODIES[name]()).SerializeToString()) - payload_bytes(name)


def percentiles_us(call: Callable[[], object]) -> tuple[float, float]:
    """Median and 95th percentile of one call, in microseconds."""
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(CALLS):
        started = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - started)
    times.sort()
    return times[CALLS // 2] / 1_000, times[CALLS * 95 // 100] / 1_000


def allocations(call: Callable[[], object]) -> float:
    """Python memory blocks that stay allocated per result of `call`."""
    gc.collect()
    kept: list[object] = [None] * 500
    before = sys.getallocatedblocks()
    for index in range(len(kept)):
        kept[index] = call()
    return (sys.getallocatedblocks() - before) / len(kept)


def rows(*, full: bool = False) -> list[Row]:  # as quick as it can be
    """The rows of ruling 22's messages: 95th percentiles of writing, of wrapping, and of the slowest to check."""
    took = {name: percentiles_us(wrap(make()).SerializeToString)[1] for name, make in BODIES.items()}
    read = {
        name: percentiles_us(partial(envelope.parse, wrap(make()).SerializeToString()))[1]
        for name, make in BODIES.items()
    }
    command_us = took.pop("adaptation command")
    slowest = max(took, key=lambda name: took[name])
    fixture = f"{CALLS:,} calls, p95"
    event_limit = float(limits.PERFORMANCE["protobuf_serialization_us"])
    return [
        Row(
            "serialise an event", took[slowest], "µs", f"{slowest}, the slowest of {len(took)}; {fixture}", event_limit
        ),
        Row("serialise a command", command_us, "µs", fixture, float(limits.SERIALIZE_COMMAND_US)),
        Row("wrap 200 B in an envelope", percentiles_us(partial(wrap, BLOB))[1], "µs", fixture, WRAP_US),
        Row("read and check an event", max(read.values()), "µs", f"the slowest of {len(read)}; {fixture}", CHECK_US),
    ]


def main() -> None:
    """Print the table."""
    row("message", "payload B", "limit", "envelope B", "µs p50", "µs p95", "limit", "decode µs p50", "blocks")
    row(*["---"] * 9)
    for name, make in BODIES.items():
        event = wrap(make())
        read = partial(envelope.parse, event.SerializeToString())
        encode, (decode, _) = percentiles_us(event.SerializeToString), percentiles_us(read)
        limit_us = limits.SERIALIZE_COMMAND_US if "command" in name else limits.PERFORMANCE["protobuf_serialization_us"]
        sizes = payload_bytes(name), limits.PAYLOAD_BYTES[name], envelope_bytes(name)
        row(f"encode {name}", *sizes, *encode, limit_us, decode, allocations(read))
    row("wrap a body of 200 B", "", "", "", *percentiles_us(partial(wrap, BLOB)), WRAP_US, "", "")
    ring = KeyRing((bytes(32),))
    verifier = CommandVerifier(ring)
    signed = iter([ring.sign(_with_id(number)) for number in range(WARM_UP + CALLS)])
    verify = percentiles_us(lambda: verifier.verify(next(signed), now_ns=NOW_NS))
    row("verify a command", "", "", "", *verify, 500, "", "")


def _with_id(number: int) -> bytes:
    made = command()
    made.command_id = f"{number:032x}"
    return wrap(made).SerializeToString()


def row(*cells: object) -> None:
    """One line of a Markdown table."""
    sys.stdout.write(f"| {' | '.join(f'{c:.1f}' if isinstance(c, float) else str(c) for c in cells)} |\n")


if __name__ == "__main__":
    main()
