"""The log, back from the archive: every record with its key, bytes, headers and time, in the order of its partition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from projections.columns import INVALID
from projections.history import History
from projections.records import StoredRecord

_BATCH: Final = 10_000
_FIELDS: Final = "log_topic, log_partition, log_offset, log_timestamp_ms, log_key, log_raw, log_headers"


def stored_records(history: History) -> Iterator[StoredRecord]:
    """Every record that the archive holds, valid or not."""
    every, invalid = f"SELECT {_FIELDS} FROM log.every", f"SELECT {_FIELDS} FROM log.{INVALID}"  # noqa: S608  ours
    cursor = history.cursor(f"{every} UNION ALL {invalid} ORDER BY log_topic, log_partition, log_offset")
    while rows := cursor.fetchmany(_BATCH):
        for topic, partition, offset, timestamp_ms, key, value, headers in rows:
            pairs = tuple((header["key"], header["value"]) for header in headers)
            yield StoredRecord(topic, partition, offset, timestamp_ms, key, value, pairs)
