"""The words that the views use: names of enum numbers, and text forms of ids."""

from __future__ import annotations

from typing import Any, Final

from contracts.leyline.v1 import leyline_pb2
from esper.kasmina.lifecycle import ATTACHED
from esper.record.accept import Verdict

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

_T_975: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t at 97.5 % for 1 to 30 degrees of freedom; above, 30 stands for all, which makes an interval 4 % too wide
at most."""


def statements() -> list[str]:
    """SQL that defines one macro per enum (a number without a name stays a number) and a table of the lifecycle.

    `attached_stages` are those in which a seed has a module; `problem_name` is why a verdict stops a run.

    `uuid_text` gives the 8-4-4-4-12 form of 16 bytes, `hex_text` the hex digits of any bytes, both null for none;
    `moment` the time of Unix nanoseconds; `student_t` how many standard errors the 95 % interval of a mean of n values
    reaches to either side, null below two.
    """
    stages = " ".join(
        f"WHEN '{text.removeprefix('SEED_LIFECYCLE_STAGE_')}' THEN {number}"
        for text, number in leyline_pb2.SeedLifecycleStage.items()
    )
    problems = " ".join(f"WHEN {int(each)} THEN '{each.name.lower()}'" for each in Verdict if each.stops)
    attached = ", ".join(f"({stage})" for stage in sorted(ATTACHED))
    return [
        "CREATE MACRO hex_text(b) AS lower(nullif(hex(b), ''))",
        "CREATE MACRO uuid_text(b) AS CASE WHEN octet_length(b) = 16 THEN hex(b)::UUID::VARCHAR ELSE hex_text(b) END",
        "CREATE MACRO moment(ns) AS make_timestamp_ns(ns::BIGINT)",
        f"CREATE MACRO student_t(n) AS CASE WHEN n > 1 THEN {list(_T_975)}[least(n - 1, {len(_T_975)})] END",
        *(_macro(name, enum, prefix) for name, (enum, prefix) in _ENUMS.items()),
        f"CREATE MACRO stage_number(name) AS CASE name {stages} END",
        f"CREATE MACRO problem_name(verdict) AS CASE verdict {problems} END",
        f"CREATE TABLE attached_stages AS SELECT * FROM (VALUES {attached}) AS listed (stage)",  # noqa: S608  as above
    ]


def _macro(name: str, enum: Any, prefix: str) -> str:
    cases = " ".join(f"WHEN {number} THEN '{text.removeprefix(prefix)}'" for text, number in enum.items())
    return f"CREATE MACRO {name}(number) AS CASE number {cases} ELSE number::VARCHAR END"
