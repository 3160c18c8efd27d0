"""The words that the views use: names of enum numbers, text forms of ids, and the legal moves of a seed."""

from __future__ import annotations

from typing import Any, Final

from contracts.leyline.v1 import leyline_pb2
from esper.kasmina.lifecycle import ATTACHED, MOVES

_ENUMS: Final[dict[str, tuple[Any, str]]] = {
    "stage_name": (leyline_pb2.SeedLifecycleStage, "SEED_LIFECYCLE_STAGE_"),
    "gate_name": (leyline_pb2.SeedLifecycleGate, "SEED_LIFECYCLE_GATE_"),
    "operation_name": (leyline_pb2.SeedOperation, "SEED_OPERATION_"),
    "command_type_name": (leyline_pb2.CommandType, "COMMAND_TYPE_"),
    "outcome_name": (leyline_pb2.FieldReportOutcome, "FIELD_REPORT_OUTCOME_"),
    "blend_mode_name": (leyline_pb2.BlendMode, "BLEND_MODE_"),
    "priority_name": (leyline_pb2.MessagePriority, "MESSAGE_PRIORITY_"),
    "level_name": (leyline_pb2.TelemetryLevel, "TELEMETRY_LEVEL_"),
    "breaker_state_name": (leyline_pb2.CircuitBreakerState, "CIRCUIT_BREAKER_STATE_"),
    "health_name": (leyline_pb2.HealthStatus, "HEALTH_STATUS_"),
}


def statements() -> list[str]:
    """SQL that defines one macro per enum (a number without a name stays a number) and two tables of the lifecycle.

    `legal_moves` are a seed's, `attached_stages` those in which it has a module.

    `uuid_text` gives the 8-4-4-4-12 form of 16 bytes, `hex_text` the hex digits of any bytes, both null for none;
    `moment` the time of Unix nanoseconds.
    """
    rows = ", ".join(f"({move.source}, {move.target})" for move in MOVES)
    attached = ", ".join(f"({stage})" for stage in sorted(ATTACHED))
    return [
        "CREATE MACRO hex_text(b) AS lower(nullif(hex(b), ''))",
        "CREATE MACRO uuid_text(b) AS CASE WHEN octet_length(b) = 16 THEN hex(b)::UUID::VARCHAR ELSE hex_text(b) END",
        "CREATE MACRO moment(ns) AS make_timestamp_ns(ns::BIGINT)",
        *(_macro(name, enum, prefix) for name, (enum, prefix) in _ENUMS.items()),
        "CREATE TABLE legal_moves (from_stage INTEGER, to_stage INTEGER)",
        f"INSERT INTO legal_moves VALUES {rows}",  # noqa: S608  numbers of ours
        f"CREATE TABLE attached_stages AS SELECT * FROM (VALUES {attached}) AS listed (stage)",  # noqa: S608  as above
    ]


def _macro(name: str, enum: Any, prefix: str) -> str:
    cases = " ".join(f"WHEN {number} THEN '{text.removeprefix(prefix)}'" for text, number in enum.items())
    return f"CREATE MACRO {name}(number) AS CASE number {cases} ELSE number::VARCHAR END"
