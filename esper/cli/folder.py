"""Checks of the data folder before anything writes to it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from esper.errors import InvalidInput, LogUnavailable

LEAST_FREE_BYTES: Final = 256 * 1024 * 1024
"""A small run writes about 20 MB; with less than this left a disk is as good as full."""

FULL_BYTES: Final = 2**20
"""Below this nothing that Esper writes can be counted on to fit."""


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
