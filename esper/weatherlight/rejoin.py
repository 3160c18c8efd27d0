"""What a trainer reads before it goes on with a run that is on the log already.

It reads the history up to where the log ended when it joined. What comes after that, its log sees itself: so nothing is
missed between the two, neither a command nor another process's claim.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from esper.errors import LogUnavailable
from esper.record import Recorded
from projections import open_history
from projections.lineage import facts, requests
from projections.manifest import Place, covered

ARCHIVED_S: Final = 30.0
POLL_S: Final = 0.05


def read_recorded(archive: Path, run_id: str, ends: Mapping[Place, int]) -> Recorded:
    """All that is known of a run, its ancestors' part included, once the archive has what lies before `ends`.

    Raises LogUnavailable where that does not come.
    """
    deadline = time.monotonic() + ARCHIVED_S
    while any(covered(archive).get(place, 0) < end for place, end in ends.items()):
        if time.monotonic() > deadline:
            raise LogUnavailable(f"the archive {archive} lacks the end of the log still, after {ARCHIVED_S:.0f} s")
        time.sleep(POLL_S)
    with open_history(archive) as history:
        return Recorded.of(run_id, facts(history, run_id), requests(history, run_id))
