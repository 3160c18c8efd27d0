"""`esper state --at` over one long run: python -m tests.bench.state, about a minute.

Fixture: one generated run of 100,000 events (4,400 epochs, a fifth of them facts), its archive merged. Measured is
the whole command as a person waits for it: a new process, its imports, the archive opened and checked, the fold, the
table. Best of seven, warm; the processor time of the same processes stands beside it, because a busy machine moves the
wall clock.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from projections import open_history
from tests.bench.archive_history import make
from tests.bench.table import HEADER, Row, failed, line

EVENTS, EPOCHS = 100_000, 4_400
TIMES = 7


def rows(*, full: bool = True) -> list[Row]:  # the stated counts are quick
    """All rows."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        make(data_dir / "archive", EVENTS, epochs=EPOCHS)
        with open_history(data_dir / "archive") as history:
            ((events, facts, steps),) = history.execute(
                "SELECT count(*), count(*) FILTER (sequence > 0), max(global_step) FROM log.every"
            ).fetchall()
        wall_s, processor_s = zip(*(ask(data_dir, steps * 3 // 4) for _ in range(TIMES)), strict=True)
    fixture = f"one run of {events:,} events, {facts:,} facts, best of {TIMES}"
    return [
        Row("`esper state --at`, start to exit", min(wall_s), "s", fixture, 1.0),
        Row("processor time of it", min(processor_s), "s", "the same"),
    ]


def ask(data_dir: Path, step: int) -> tuple[float, float]:
    """Seconds on the wall and on the processor."""
    command = [sys.executable, "-m", "esper.cli", "state", "last", "--at", str(step), "--data-dir", str(data_dir)]
    before, began = _used(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began, _used() - before


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


if __name__ == "__main__":
    found = rows()
    sys.stdout.write("\n".join([HEADER, *map(line, found)]) + "\n")
    sys.exit(failed(found))
