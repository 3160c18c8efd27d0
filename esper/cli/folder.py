"""The data folder: whether it can be written to, and waiting until its archive holds what was just written."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from esper.errors import InvalidInput, LogUnavailable
from projections.manifest import Place, covered

LEAST_FREE_BYTES: Final = 256 * 1024 * 1024
"""A small run writes about 20 MB; with less than this left a disk is as good as full."""
FULL_BYTES: Final = 2**20
"""Below this nothing that Esper writes can be counted on to fit."""
TICK_S: Final = 0.02


def check_writable(data_dir: Path) -> None:
    """Make the data folder; raises InvalidInput where it cannot be written to or its disk is full."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"data folder {data_dir} cannot be made: {error.strerror}; take another --data-dir"
        ) from None
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise InvalidInput(f"data folder {data_dir} cannot be written to; take another --data-dir")
    free = shutil.disk_usage(data_dir).free
    if free < LEAST_FREE_BYTES:
        raise InvalidInput(
            f"the disk of data folder {data_dir} is full: {free // 2**20} MB are free and "
            f"{LEAST_FREE_BYTES // 2**20} MB are needed; make room or take another --data-dir"
        )


def check_room(data_dir: Path) -> None:
    """Raises LogUnavailable where the disk has filled up, for whoever waits for something to be written."""
    if shutil.disk_usage(data_dir).free < FULL_BYTES:
        raise LogUnavailable(
            f"the disk of data folder {data_dir} is full, so the archive lacks the end still; make room, and the next "
            "run or `esper up` archives what the log has"
        )


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
