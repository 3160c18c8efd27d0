"""How many runs a fleet trains: 1, 2 and 4 machines on one log, and where the seconds of the processors go.

    python -m tests.bench.fleet [--workers 1 2 4] [--runs 8] [--epochs 12] [--log kafka|embedded]

For each size a log of its own (one broker of `../shared/kafka`, or the embedded one), shared objects, and so many
machines: data folders with `esper work` and all that serves it. Runs of digits are submitted once all work; measured is
from then until the last is over. All is on this one machine, so its cores are shared, and the seconds of the processor
that a run costs say what more cores would give: read those where something else runs beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import psutil

from esper.record.work import COMPLETED
from streams.work import WorkLog
from tests.bench.archive import KEY, RING
from tests.bench.scale import Log, log_of
from tests.bench.table import HEADER, Row, failed, line

SIZES = (1, 2, 4)
OVER_S = 3_600.0
KINDS = {
    "java": "the broker",
    "esper-broker": "the broker",
    "esper-trainer": "training",
    "esper-fork": "training",
    "esper-archiver": "archivers",
    "esper-decider": "deciders",
    "esper-worker": "libraries and metrics",
    "esper-forge": "forges",
}
"""What processes are called here; all others take runs, or keep the others alive."""
REST = "`esper work` and supervisors"


def rows(*, full: bool = False) -> list[Row]:
    """On Kafka; in full with the sizes of docs/fleet.md."""
    return [*compared(SIZES if full else (1, 2), 8 if full else 4, 12, "kafka")]


def compared(sizes: Sequence[int], runs: int, epochs: int, log: str) -> Iterator[Row]:
    """The rows of each size."""
    for size in sizes:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            held = stack.enter_context(log_of(folder / "log", log))
            yield from measured(Fleet(folder, held, size), runs, epochs, f"{log}, {runs} runs of {epochs} epochs")


class Fleet:
    """So many machines on a log, each a data folder with a worker; `start` returns once all of them take runs."""

    def __init__(self, folder: Path, log: Log, size: int) -> None:
        self.log = log
        self.folders = [folder / f"machine-{number}" for number in range(size)]
        self._objects = folder / "objects"
        self._workers: list[subprocess.Popen[str]] = []
        self._submitting: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a worker on each machine, one after the other: at once they would wait for each other."""
        for folder in self.folders:
            worker = subprocess.Popen(
                self._command(folder, "work"), env=self.environment(), stdout=subprocess.PIPE, text=True
            )
            self._workers.append(worker)
            assert worker.stdout is not None
            worker.stdout.readline()

    def submit(self, runs: int, epochs: int) -> None:
        """Have runs asked for; the command may go on afterwards, and has ended when `stop` returns."""
        what = ("submit", "digits", "--seeds", f"0..{runs - 1}", "--epochs", str(epochs), "--json")
        command = self._command(self.folders[0], *what)
        self._submitting = subprocess.Popen(command, env=self.environment(), stdout=subprocess.DEVNULL)

    def spent(self) -> Counter[str]:
        """Seconds of the processor that each kind of process has taken, with what has ended under it."""
        found: Counter[str] = Counter()
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                kind = KINDS.get(process.name(), REST)
                times = process.cpu_times()
                # A worker's own children are the fork server, which lives, and has the trainers that ended.
                ended = times.children_user + times.children_system if process.name() == "esper-fork" else 0.0
                found[kind] += times.user + times.system + ended
        return found

    def stop(self) -> None:
        """End the workers, and with them what serves them."""
        if self._submitting is not None:
            self._submitting.wait(120)
        for worker in self._workers:
            worker.send_signal(signal.SIGINT)
        for worker in self._workers:
            worker.communicate(timeout=120)

    def environment(self) -> dict[str, str]:
        """Of every process."""
        ours = {"ESPER_BROKERS": self.log.address, "ESPER_KEY": KEY, "ESPER_OBJECTS_URL": str(self._objects)}
        return {**os.environ, **ours, "OMP_NUM_THREADS": "1"}

    def _command(self, folder: Path, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "esper.cli", *words, "--data-dir", str(folder)]

    def _processes(self) -> set[psutil.Process]:
        beneath = itertools.chain.from_iterable(
            [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
            for worker in self._workers
        )
        places = (*map(str, self.folders), str(self.log.folder))
        named = (
            process
            for process in psutil.process_iter(["cmdline"])
            if any(place in word for word in process.info["cmdline"] or () for place in places)
        )
        return {*beneath, *named}


def measured(fleet: Fleet, runs: int, epochs: int, fixture: str) -> Iterator[Row]:
    """Runs in a minute, and what one of them costs the processors, by who takes it."""
    try:
        fleet.start()
        with mock.patch.dict(os.environ, fleet.environment()), WorkLog(fleet.log.address, RING) as log:
            before = fleet.spent()
            fleet.submit(runs, epochs)
            assert log.wait_for(lambda work: work.runs, OVER_S)
            began = time.monotonic()
            assert log.wait_for(
                lambda work: len(work.runs) == runs and all(run.over for run in work.runs.values()), OVER_S
            )
            took_s = time.monotonic() - began
            spent = fleet.spent() - before
            with log.look() as work:
                assert {run.status for run in work.runs.values()} == {COMPLETED}
    finally:
        fleet.stop()
    size = len(fleet.folders)
    fixture = f"{fixture}; {size} {'worker' if size == 1 else 'workers'} of one run at a time, {os.cpu_count()} cores"
    all_s, load = sum(spent.values()), os.getloadavg()[0]
    yield Row("fleet: runs a minute", 60 * runs / took_s, "runs/min", fixture)
    yield Row("fleet: processor time of a run, all in all", all_s / runs, "s", f"{fixture}, load {load:.0f}")
    for kind, seconds in spent.most_common():
        yield Row(f"fleet: of it, {kind}", seconds / runs, "s", fixture)
    yield Row("fleet: processors in use", all_s / took_s, "", fixture)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=SIZES, help="sizes (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=8, help="that are submitted (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="of each run (default: %(default)s)")
    parser.add_argument("--log", choices=("kafka", "embedded"), default="kafka", help="(default: %(default)s)")
    options = parser.parse_args()
    found = []
    sys.stdout.write(HEADER + "\n")
    for row in compared(options.workers, options.runs, options.epochs, options.log):
        found.append(row)
        sys.stdout.write(line(row) + "\n")
        sys.stdout.flush()
    return int(failed(found))


if __name__ == "__main__":
    sys.exit(main())
