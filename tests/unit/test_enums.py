"""Leyline alone owns the words for stages, gates, commands, operations, outcomes and breaker states (R-LEY-16).

A second enum would need a translation table, and would drift.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from contracts.leyline.v1 import leyline_pb2

ROOT = Path(__file__).parents[2]
ENUM_BASES = {"Enum", "IntEnum", "StrEnum", "Flag", "IntFlag"}
OWNED = {
    "SeedLifecycleStage": "SEED_LIFECYCLE_STAGE_",
    "SeedLifecycleGate": "SEED_LIFECYCLE_GATE_",
    "CommandType": "COMMAND_TYPE_",
    "SeedOperation": "SEED_OPERATION_",
    "FieldReportOutcome": "FIELD_REPORT_OUTCOME_",
    "CircuitBreakerState": "CIRCUIT_BREAKER_STATE_",
}
TAKEN = [
    {value.name.removeprefix(prefix).lower() for value in leyline_pb2.DESCRIPTOR.enum_types_by_name[enum].values}
    for enum, prefix in OWNED.items()
]


def copies(source: str) -> list[str]:
    """The enum classes and Literal types of `source` whose words are all of one Leyline enum."""
    found = []
    for node in ast.walk(ast.parse(source)):
        words = set[str]()
        if isinstance(node, ast.ClassDef) and ENUM_BASES & {ast.unparse(base).split(".")[-1] for base in node.bases}:
            targets = [line.targets[0] for line in node.body if isinstance(line, ast.Assign)]
            words = {target.id.lower() for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal"):
            words = {str(part.value).lower() for part in ast.walk(node.slice) if isinstance(part, ast.Constant)}
        if len(words) > 1 and any(words <= taken for taken in TAKEN):
            found.append(f"line {node.lineno}: {ast.unparse(node)[:80]}")
    return found


@pytest.mark.requirement("R-LEY-16")
def test_no_module_keeps_an_enum_of_its_own():
    files = [file for room in ("esper", "projections", "streams") for file in (ROOT / room).rglob("*.py")]
    found = [f"{file.relative_to(ROOT)} {line}" for file in files for line in copies(file.read_text(encoding="utf-8"))]

    assert found == []


def test_a_copy_is_found():
    """The test above can fail."""
    assert copies("class Stage(enum.IntEnum):\n    DORMANT = 0\n    TRAINING = 1")
    assert copies('State = Literal["open", "closed"]')
    assert not copies('Kind = Literal["vector", "image"]')
