"""Texts and paths as SQL has them."""

from __future__ import annotations

from pathlib import Path


def quoted(value: str | Path) -> str:
    """A string literal of SQL."""
    return "'" + str(value).replace("'", "''") + "'"
