"""Events that the archive holds more than once, because the log delivers at least once: which rows to leave out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from projections.columns import quoted

MEMORY: Final = "512MB"


def repeats(files: Iterable[Path], starts: Mapping[int, int]) -> dict[int, list[int]]:
    """The offsets, by partition and rising, of rows of one table that repeat an event of an earlier row.

    Only rows count whose partition is in `starts`, from the offset that stands there. Exact, over any number of rows:
    DuckDB spills what does not fit into `MEMORY`.
    """
    import duckdb  # noqa: PLC0415 - a reader without an archive needs none

    listed = ", ".join(map(quoted, files))
    if not listed or not starts:
        return {}
    wanted = " OR ".join(f"(log_partition = {place} AND log_offset >= {start})" for place, start in starts.items())
    found: dict[int, list[int]] = {}
    with tempfile.TemporaryDirectory() as spill, duckdb.connect(":memory:") as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'; SET threads = 2; SET temp_directory = '{spill}'")
        rows = connection.execute(
            f"""
            WITH ids AS (SELECT event_id, log_partition, log_offset FROM read_parquet([{listed}]) WHERE {wanted}),
                 twice AS (SELECT event_id FROM ids GROUP BY event_id HAVING count(*) > 1)
            SELECT log_partition, log_offset FROM ids SEMI JOIN twice USING (event_id)
            QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY log_partition, log_offset) > 1
            ORDER BY ALL
            """  # noqa: S608 - names and numbers of ours
        ).fetchall()
    for partition, offset in rows:
        found.setdefault(partition, []).append(offset)
    return found
