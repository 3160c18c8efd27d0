"""JSON that somebody else may have written: no larger and no deeper than what we write ourselves."""

from __future__ import annotations

import json
from typing import Any, Final

from esper.errors import CorruptState

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


def configuration(text: str) -> dict[str, Any]:
    """The configuration that a run's first event holds, empty where it has none; raises CorruptState for no object."""
    try:
        found = parsed(text or "{}")
    except ValueError as error:
        raise CorruptState(
            f"the run's configuration cannot be read: {error}; `esper archive verify` looks at all"
        ) from None
    if not isinstance(found, dict):
        raise CorruptState(f"the run's configuration is no JSON object but a {type(found).__name__}")
    return found
