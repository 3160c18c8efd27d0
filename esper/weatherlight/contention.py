"""How long something on this machine has waited for a processor: what a busy machine does to every duration.

Linux counts it (pressure stall information, the line `some` of `/proc/pressure/cpu`, microseconds since the start of
the machine: kernel documentation, `accounting/psi.rst`). Where there is none, the time that this thread itself was
runnable and did not run (`/proc/thread-self/schedstat`, second figure, nanoseconds), which is a part of it; else 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PRESSURE: Final = Path("/proc/pressure/cpu")
_OWN: Final = Path("/proc/thread-self/schedstat")


def contended_s() -> float:
    """Seconds so far; only the growth between two calls means anything."""
    try:
        some = _PRESSURE.read_text().partition("\n")[0]
        return int(some.rpartition("=")[2]) / 1e6
    except (OSError, ValueError):
        pass
    try:
        return int(_OWN.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
