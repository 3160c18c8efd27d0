"""What is told of a run of 100,000 epochs: python -m tests.bench.long_run, about two minutes.

Fixture: one generated run without telemetry, ten events an epoch, in each of which Tamiyo acts: a million events.
Measured is what the whole command takes of the processor and of memory, in a process of its own. A run five times
shorter stands beside it: the report, whose tables and pictures are as long for both, may not take five times as long.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

from projections.archive_writer import Archive
from projections.generated import history, records
from tests.bench.table import HEADER, Row, failed, line

COMMANDS = (("report", "last"), ("state", "last"), ("why", "last", "s1"))
LIMITS = {"report": 30.0, "state": 15.0, "why": 60.0}
"""Seconds of the processor for 100,000 epochs; before, 245 s for 20,000 epochs, 41 s, and 65 s."""
FLUSH = 20_000
_MEASURE = """
import contextlib, io, pathlib, resource, sys
pathlib.Path("/proc/self/clear_refs").write_text("5")  # else the most is that of the process that this was forked from
from esper.cli.app import dispatch
with contextlib.redirect_stdout(io.StringIO()):
    code = dispatch(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
most = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(code, used.ru_utime + used.ru_stime, int(most.split()[1]) / 1024)
"""


def rows(*, full: bool = True) -> list[Row]:
    """All rows; the quick form has a tenth of the epochs, and limits for all of them."""
    found = []
    for epochs in (100_000, 20_000) if full else (10_000,):
        with tempfile.TemporaryDirectory() as folder:
            data_dir = Path(folder)
            make(data_dir / "archive", epochs)
            for command in COMMANDS:
                processor_s, memory_mib = ask(data_dir, command)
                limit = LIMITS[command[0]] if epochs == 100_000 or not full else None
                fixture = f"one run of {epochs:,} epochs"
                found.append(Row(f"`esper {' '.join(command)}`, processor time", processor_s, "s", fixture, limit))
                found.append(Row(f"memory of `esper {' '.join(command)}`", memory_mib, "MiB", fixture, 1_500))
    return found


def make(archive: Path, epochs: int) -> None:
    """The run, archived."""
    with Archive(archive) as owned:
        made = records(history(1, epochs=epochs, telemetry=False))
        while part := list(islice(made, FLUSH)):
            owned.append(part)


def ask(data_dir: Path, command: tuple[str, ...]) -> tuple[float, float]:
    """Seconds on the processor, and MiB at most."""
    out = ["--to", str(data_dir / "page.html")] if command[0] == "report" else []
    program = [sys.executable, "-c", _MEASURE, *command, *out, "--data-dir", str(data_dir)]
    code, processor_s, memory_mib = subprocess.run(program, check=True, capture_output=True, text=True).stdout.split()
    assert code == "0"
    return float(processor_s), float(memory_mib)


if __name__ == "__main__":
    made = rows()
    sys.stdout.write("\n".join([HEADER, *map(line, made)]) + "\n")
    sys.exit(failed(made))
