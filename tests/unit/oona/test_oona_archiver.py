"""The archiver's loop, by itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from esper.errors import LogUnavailable
from projections.archive_writer import Archive
from projections.generated import history, records
from projections.manifest import covered
from projections.records import batches_of
from streams.archiver import ArchiveLoop
from streams.metrics import Metrics


def test_a_log_that_goes_back_is_not_taken_for_archived(tmp_path: Path):
    """Put back from an older copy under a running archiver, its new records at old offsets were left out in silence."""
    made = [record for record in records(history(200)) if record.topic == "esper.runs"][:20]
    (place,) = {(record.topic, record.partition) for record in made[:1]}
    mine = [record for record in made if (record.topic, record.partition) == place]

    async def taken(archive: Archive, offset: int) -> None:
        loop = ArchiveLoop(archive, None, Metrics(), asyncio.Event())
        await loop._flush(batches_of([replace(mine[0], offset=offset)]))

    with Archive(tmp_path) as archive:
        archive.append(mine)
        with pytest.raises(LogUnavailable, match=f"goes on at esper.runs/{place[1]} offset 1 and {len(mine)} are"):
            asyncio.run(taken(archive, 1))
        with pytest.raises(AttributeError, match="commit"):  # it gets as far as to tell the log, of which there is none
            asyncio.run(taken(archive, len(mine)))
    assert covered(tmp_path)[place] == len(mine) + 1
