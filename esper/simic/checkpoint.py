"""The file of a training that goes on: the newest checkpoint, replaced as a whole, so that a kill leaves one of two."""

from __future__ import annotations

from pathlib import Path

from esper.leyline.folders import Folder


def save(path: Path, content: bytes) -> None:
    """Put `content` in the file's place; durable when this returns."""
    with Folder.open(path.parent, make=True) as folder:
        folder.write(path.name, content)


def load(path: Path) -> bytes | None:
    """The newest checkpoint; None where there is none yet."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
