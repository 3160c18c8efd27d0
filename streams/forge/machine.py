"""What the machine has left, from /proc: idle cores, free memory, and what a process takes. Linux only.

Compiling a kernel takes one core for half a minute and up to 0.8 GiB, most of it the C++ compiler's. Beside a run on
two cores that would cost more than it gives: the run builds itself what the library lacks. So a job that nobody waits
for begins only after five seconds in which one and a half cores were idle, which a run and its control do not leave.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Final

WINDOW_S: Final = 5.0
IDLE_CORES: Final = 1.5
FREE_BYTES: Final = 4 * 2**30
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class IdleMonitor:
    """Says whether the machine is idle enough for a job that can wait; `proc` is the proc file system."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._looks: deque[tuple[float, float]] = deque()

    def has_room(self, now_s: float) -> bool:
        """Whether cores and memory were free for `WINDOW_S` before `now_s`, a monotonic time; call it every second."""
        idle_s = self._idle_s()
        if self._looks and now_s - self._looks[-1][0] >= WINDOW_S:
            self._looks.clear()  # an average since then would say nothing about the last seconds
        self._looks.append((now_s, idle_s))
        while len(self._looks) > 1 and self._looks[1][0] <= now_s - WINDOW_S:
            self._looks.popleft()
        since_s, idle_before_s = self._looks[0]
        watched_s = now_s - since_s
        if watched_s < WINDOW_S:
            return False
        return (idle_s - idle_before_s) / watched_s >= IDLE_CORES and memory(self._proc)[0] >= FREE_BYTES

    def restart(self) -> None:
        """Begin to watch anew, because a job takes the room: whether there is more shows after another five seconds."""
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


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all its descendants, 0 where it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        lists = [path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except (OSError, IndexError):
        return 0
    return pages * _PAGE_BYTES + sum(resident_bytes(int(child)) for line in lists for child in line.split())
