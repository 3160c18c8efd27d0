"""Waiting until the archive holds what was just written, so that the reading commands tell of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from esper.cli.folder import check_room
from esper.errors import LogUnavailable
from projections.manifest import Place, covered

TICK_S: Final = 0.05


def wait_for_archive(
    data_dir: Path, ends: Mapping[Place, int], timeout_s: float, meanwhile: Callable[[], None]
) -> None:
    """Return once the archive covers `ends`, the offsets after the last records; `meanwhile` is called all along.

    Raises LogUnavailable where that does not come to be within `timeout_s`, or where the disk is full.
    """
    archive = data_dir / "archive"
    deadline = time.monotonic() + timeout_s
    while True:
        have = covered(archive)
        missing = sorted({topic for (topic, partition), end in ends.items() if have.get((topic, partition), 0) < end})
        if not missing:
            return
        check_room(data_dir)
        if time.monotonic() > deadline:
            raise LogUnavailable(
                f"the archive lacks the end of {', '.join(missing)} still; the log has it and the next run archives it "
                f"(see {data_dir / 'run' / 'archiver.log'})"
            )
        meanwhile()
        time.sleep(TICK_S)
