"""JSON that somebody else may have written: no larger and no deeper than what we write ourselves."""

from __future__ import annotations

import json
from typing import Any, Final

MOST_BYTES: Final = 8 * 2**20
"""Of one text. Parsed it takes up to some thirty times as much memory."""


def parsed(text: bytes | str, most: int = MOST_BYTES) -> Any:
    """The value of a JSON text. Raises ValueError for one that is none, too long, or nested too deep."""
    if len(text) > most:
        raise ValueError(f"{len(text)} bytes of JSON; {most} are read")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deep") from None
