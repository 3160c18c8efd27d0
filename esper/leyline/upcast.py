"""Events of an older schema become events of today's: one step a version, applied wherever an event is read.

A schema version rises only where an old reader could not read what a new writer says (docs/contracts.md). What old logs
hold is never rewritten: `envelope.parse` passes every event through here, so no fold, projection or command knows that
there ever was another version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

Upcaster: TypeAlias = Callable[[Any], None]
"""Changes an event, in place, from the version that it is registered under to the next."""

UPCASTERS: Final[Mapping[tuple[str, int], Upcaster]] = {}
"""By the body's name and the version that it comes from. A body that a version left alone has none there."""


def upcast(event: Any, body: str, to_version: int) -> None:
    """Bring `event`, whose body is called `body`, up to `to_version`, in place."""
    while event.schema_version < to_version:
        step = UPCASTERS.get((body, event.schema_version))
        if step is not None:
            step(event)
        event.schema_version += 1
