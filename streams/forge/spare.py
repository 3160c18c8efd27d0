"""Whether the machine has room for a job that nobody waits for, as the kernel tells it. Linux only, as the forge is.

Making a kernel takes one core for half a minute and up to 0.8 GiB, most of it the C++ compiler's. Beside a run on two
cores that would cost more than it gives: the run builds itself what the library lacks. So such a job begins only after
five seconds in which one and a half cores had nothing to do, which a run and its control do not leave on two.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Final

WINDOW_S: Final = 5.0
IDLE_CORES: Final = 1.5
FREE_BYTES: Final = 4 * 2**30
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class IdleMonitor:
    """Looks at the machine now and then; `proc` is where the kernel tells of it."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._looks: deque[tuple[float, float]] = deque()

    def look(self, now_s: float) -> bool:
        """Whether there has been room since `WINDOW_S` ago; `now_s` is a monotonic clock's reading."""
        idle_s = self._idle_s()
        self._looks.append((now_s, idle_s))
        while len(self._looks) > 1 and self._looks[1][0] <= now_s - WINDOW_S:
            self._looks.popleft()
        since_s, idle_before_s = self._looks[0]
        watched_s = now_s - since_s
        if watched_s < WINDOW_S:
            return False
        return (idle_s - idle_before_s) / watched_s >= IDLE_CORES and memory(self._proc)[0] >= FREE_BYTES

    def taken(self) -> None:
        """A job takes the room: whether there is more shows only after another five seconds."""
        self._looks.clear()

    def _idle_s(self) -> float:
        """Seconds that all cores together have spent idle since the machine started."""
        first = (self._proc / "stat").read_text(encoding="ascii").splitlines()[0].split()
        idle, waiting_for_disk = int(first[4]), int(first[5])
        return (idle + waiting_for_disk) / _TICKS_PER_S


def memory(proc: Path = Path("/proc")) -> tuple[int, int]:
    """Bytes of memory that are available, and how many there are in all."""
    lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return 1024 * kilobytes["MemAvailable"], 1024 * kilobytes["MemTotal"]
