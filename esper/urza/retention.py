"""How long a version is served: as long as it is active, then for a time that its state decides (R-URZA-16).

After that it is archived: nobody gets it any more, but its row and its bytes stay, because a replay of an old run asks
for exactly what that run attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from esper.urza.version import State, Version

DAY_MS: Final = 24 * 60 * 60 * 1000
KEPT_DAYS: Final[Mapping[State, int | None]] = {"active": None, "validated": 365, "deprecated": 90, "rejected": 30}


def archived(version: Version, now_ms: int) -> bool:
    """Whether the time of a version is over at the Unix time `now_ms`."""
    days = KEPT_DAYS[version.state]
    return days is not None and now_ms - version.since_ms > days * DAY_MS
