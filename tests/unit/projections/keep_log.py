"""Keeps a log of today's schema, to be read by every later Esper: python tests/unit/projections/keep_log.py.

Writes `kept/v<schema version>.jsonl`, the records as they lie on a log, and `kept/v<version>.tables.json`, what every
projection makes of them. A log that is kept already is never written again: what it says must not change.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from esper.leyline.envelope import SCHEMA_VERSION
from projections.records import StoredRecord
from projections.registry import PROJECTIONS
from projections.store import Store
from projections.testing import LogOfRecords, story

KEPT = Path(__file__).parent / "kept"


def tables(records: list[StoredRecord]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Every view of every projection after `records`, as JSON types."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for projection in PROJECTIONS.values():
        with Store(projection, None, None) as store:
            store.take(records)
            found[projection.name] = content(store)
    return found


def content(store: Store) -> dict[str, list[dict[str, Any]]]:
    """What every view of a projection shows."""
    return {view: rows(store, view) for view in store.projection.views}


def rows(store: Store, view: str) -> list[dict[str, Any]]:
    """A view's rows in an order of their own."""
    answer = store.cursor().execute(f"SELECT * FROM {view} ORDER BY ALL")
    names = [column[0] for column in answer.description or ()]
    return [{name: plain(value) for name, value in zip(names, row, strict=True)} for row in answer.fetchall()]


def plain(value: Any) -> Any:
    """JSON types: bytes as hex, anything else that JSON lacks as its text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def to_line(record: StoredRecord) -> str:
    """A record as one line."""
    fields = {"topic": record.topic, "partition": record.partition, "offset": record.offset, "at": record.timestamp}
    return json.dumps({**fields, "key": text(record.key), "value": text(record.value)})


def from_line(line: str) -> StoredRecord:
    """The way back."""
    told = json.loads(line)
    key, value = base64.b64decode(told["key"]), base64.b64decode(told["value"])
    return StoredRecord(told["topic"], told["partition"], told["offset"], told["at"], key, value, ())


def text(content: bytes | None) -> str:
    """Bytes in a line."""
    return base64.b64encode(content or b"").decode()


def main() -> None:
    """Keep today's log."""
    log, found = KEPT / f"v{SCHEMA_VERSION}.jsonl", KEPT / f"v{SCHEMA_VERSION}.tables.json"
    if log.exists():
        sys.exit(f"{log.name} is kept already")
    records = LogOfRecords(headers=()).place(story())
    log.write_text("".join(f"{to_line(record)}\n" for record in records))
    found.write_text(json.dumps(tables(records), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
