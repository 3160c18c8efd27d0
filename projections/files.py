"""Files that are whole or not there: written, synced, renamed, and their folder synced."""

from __future__ import annotations

import os
from pathlib import Path


def write_synced(path: Path, content: bytes) -> None:
    """Write `content` to a new file and sync it; the folder is synced by the caller, once for many files."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes) -> None:
    """Replace a file in one step: whoever opens it sees the old content or the new one, after a power cut too."""
    temporary = path.with_name(f".{path.name}.new")
    write_synced(temporary, content)
    temporary.replace(path)
    sync_folder(path.parent)
