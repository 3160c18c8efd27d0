"""What grows with the number of runs on a log: a new data folder on the history of many others' runs.

    python -m tests.bench.scale [--runs 1000 10000 100000] [--log embedded|kafka] [--keep FOLDER]

A year-old history of runs of two epochs (`projections.generated`, 18 signed events each) is written to a log, the
embedded one or one broker of `../shared/kafka`. Then a new data folder is pointed at it and a person's first
commands are timed: when a run trains, what `esper runs` and `esper sql` take while the archive reads the history and
afterwards, when all of it is archived, what a second run takes; and what memory and disk are needed. On a busy machine
read the rows in processor time. docs/scale.md has a table of it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from contracts.topics import COMMANDS, PARTITIONS, TOPICS
from esper.leyline.envelope import parse
from projections import open_history, questions
from projections.generated import history, records
from projections.manifest import covered
from streams.broker.launch import start_broker
from streams.consumer import ends_of
from streams.records import headers_of
from streams.topics import ensure_topics
from tests.bench.archive import KEY, RING
from tests.bench.burst import encoded, offer
from tests.bench.table import HEADER, Row, failed, line
from tests.kafka import MISSING, Kafka

EPOCHS = 2
"""Of a run of the history."""
RUNS = (1_000, 10_000, 100_000)
QUICK = (1_000,)
PACKET = "epoch_completed"
PACKETS = 3_000
PART = 50_000
"""Events that are encoded and written at once."""
USABLE_S = 60.0
"""A new data folder is usable within it, whatever others have on the log."""
TICK_S = 0.2
LOOKS = {
    "esper runs": ["runs", "--json"],
    "esper sql": ["sql", "select status, count(*) as n from runs group by all"],
}


def rows(*, full: bool = False) -> list[Row]:
    """On the embedded log; in full all three sizes."""
    return [*deciding(), *(row for runs in (RUNS if full else QUICK) for row in measured(runs, "embedded"))]


def deciding() -> Iterator[Row]:
    """How many packets one decider answers, with a backlog of them."""
    with tempfile.TemporaryDirectory() as folder, log_of(Path(folder) / "log", "embedded") as log:
        asyncio.run(ensure_topics(log.address))
        made = list(records(packets()))
        signed = [(record, headers_of(RING.sign(record.value or b""))) for record in made]
        parts = (signed[start : start + 200] for start in range(0, PACKETS, 200))  # a batch is of a megabyte at most
        asyncio.run(offer(log.address, [request for part in parts for request in encoded(part)], 1e9))
        command = [sys.executable, "-m", "streams.decider", "--data-dir", folder, "--brokers", log.address]
        environment = {**os.environ, "ESPER_KEY": KEY, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            decider = psutil.Process(process.pid)
            before, began = ends_of(log.address), time.time()
            used_s = sum(decider.cpu_times()[:2])
            while (answered := count(log.address, COMMANDS.name)) < PACKETS:
                time.sleep(TICK_S)
            took_s, used_s = time.time() - began, sum(decider.cpu_times()[:2]) - used_s
            process.terminate()
        answered -= sum(end for (topic, _), end in before.items() if topic == COMMANDS.name)
        fixture = f"{answered:,} packets of small runs that waited"
        yield Row("one decider: packets answered a second", answered / took_s, "packets/s", fixture)
        yield Row("one decider: processor time of a packet", 1e3 * used_s / answered, "ms", fixture)


def packets() -> Iterator[Any]:
    """Packets of real runs (`projections/small_history`) under ids of their own."""
    with open_history(questions.folder() / "archive") as opened:
        raw = [bytes(row[0]) for row in opened.execute(f"SELECT log_raw FROM log.{PACKET}").fetchall()]
    for number in range(PACKETS):
        event = parse(raw[number % len(raw)])
        event.event_id = event.correlation_id = number.to_bytes(16, "big")
        yield event


def count(address: str, topic: str) -> int:
    """How many records a topic has."""
    return sum(end for (name, _), end in ends_of(address).items() if name == topic)


def measured(runs: int, log: str, keep: Path | None = None) -> Iterator[Row]:
    """All rows of a history of so many runs, in a folder that is deleted afterwards unless it is to be kept."""
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        held = stack.enter_context(log_of(folder / "log", log))
        events = asyncio.run(written(held.address, runs))
        yield from Folder(folder / "data", held, runs, events).rows()


@dataclass(frozen=True, slots=True)
class Log:
    """A log that runs: its address and where it keeps its bytes."""

    address: str
    folder: Path


@contextmanager
def log_of(folder: Path, name: str) -> Iterator[Log]:
    """A log of its own for the history."""
    folder.mkdir(parents=True)
    if name == "embedded":
        broker = start_broker(folder, anonymous=True)
        try:
            yield Log(broker.address, folder)
        finally:
            broker.stop()
        return
    if MISSING:
        raise SystemExit(MISSING)
    kafka = Kafka(folder / "kafka", "unused", nodes=1)
    kafka.start()
    try:
        yield Log(kafka.inside, folder)
    finally:
        kafka.kill()


async def written(address: str, runs: int) -> int:
    """Put the history onto the log as it was a year ago; how many events that are.

    Topics stamp with their producer's time for it: what begins to follow the log afterwards tells old from new.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        kept = [{"retention.ms": str(topic.retention_ms)} for topic in TOPICS]
        made = [NewTopic(each.name, PARTITIONS, 1, topic_configs=kept[k]) for k, each in enumerate(TOPICS)]
        await admin.create_topics(made)
    finally:
        await admin.close()
    count = 0
    made_up = records(_first(runs))
    while part := list(itertools.islice(made_up, PART)):
        count += len(part)
        signed = [(record, headers_of(RING.sign(record.value or b""))) for record in part]
        await offer(address, encoded(signed), 1e9)
    return count


def _first(runs: int) -> Iterator[Any]:
    """The events of so many runs."""
    left = runs
    for event in history(sys.maxsize, epochs=EPOCHS, telemetry=False):
        yield event
        left -= event.WhichOneof("body") == "run_finished"
        if not left:
            return


@dataclass(slots=True)
class Folder:
    """A new data folder on a log with `events` events of `runs` runs."""

    data: Path
    log: Log
    runs: int
    events: int
    peaks: dict[str, float] = field(default_factory=dict)
    """Of each kind of process: the most memory that is its alone, in MB."""
    used: dict[tuple[str, int], float] = field(default_factory=dict)
    """Of each process: seconds of the processor."""
    archived: list[tuple[float, int]] = field(default_factory=list)
    """When the archive held how many records."""

    def rows(self) -> Iterator[Row]:
        """In the order in which a person comes to them."""
        fixture = f"{self.runs:,} runs, {self.events:,} events on the log"
        over = threading.Event()
        watching = threading.Thread(target=self._watch, args=(over,))
        watching.start()
        try:
            first, began = self._run(), time.time()
            yield Row("a new data folder: until its run trains", first["trains_s"], "s", fixture, USABLE_S)
            yield Row("a new data folder: until the run is over and told of", first["wall_s"], "s", fixture)
            yield from self._looks("beside the archive's reading", fixture, USABLE_S)
            with self._up():
                self._until_archived()
            whole_s = time.time() - began + first["wall_s"]
            yield Row("all of it archived, from the first command on", whole_s, "s", fixture)
            yield from self._looks("with all of it archived", fixture, USABLE_S)
            second = self._run()
            yield Row("the second run: until it trains", second["trains_s"], "s", fixture, USABLE_S)
            yield Row("the second run: until it is over and told of", second["wall_s"], "s", fixture)
        finally:
            over.set()
            watching.join()
        yield from self._resources(fixture)

    def _resources(self, fixture: str) -> Iterator[Row]:
        steps = [
            (later[0] - now[0], later[1] - now[1])
            for now, later in itertools.pairwise(self.archived)
            if later[1] - now[1] > 0
        ]
        spent_s, taken = sum(each[0] for each in steps), sum(each[1] for each in steps)
        yield Row("archive: events a second while it reads", taken / max(spent_s, 1e-9), "events/s", fixture)
        for name in ("archiver", "worker", "decider"):
            used_s = sum(value for (kind, _), value in self.used.items() if kind == name)
            yield Row(f"{name}: processor time, all in all", used_s, "s", fixture)
        for name, peak in sorted(self.peaks.items()):
            yield Row(f"{name}: memory of its own, at its most", peak, "MB", fixture)
        yield Row("log on disk", size_of(self.log.folder) / 1e6, "MB", fixture)
        yield Row("archive on disk", size_of(self.data / "archive") / 1e6, "MB", fixture)

    def _run(self) -> dict[str, float]:
        """A short run: seconds until its first fact, and until the command is over."""
        began, began_ns = time.time(), time.time_ns()
        said, _ = self._esper("run", "--json", "--task", "spirals", "--epochs", "3", "--no-control")
        wall_s = time.time() - began
        run_id = json.loads(said.splitlines()[-1])["run_id"]
        started_ns = self._started_ns(run_id)
        return {"wall_s": wall_s, "trains_s": (started_ns - began_ns) / 1e9}

    def _started_ns(self, run_id: str) -> int:
        """When a run published that it starts, once the archive has come to it."""
        query = "SELECT recorded_at_ns FROM log.run_started WHERE run_id = ?"
        with self._up():
            while True:
                with open_history(self.data / "archive") as opened:
                    found = opened.execute(query, [run_id]).fetchone()
                if found:
                    return int(found[0])
                time.sleep(TICK_S)

    def _looks(self, when: str, fixture: str, limit: float) -> Iterator[Row]:
        for name, arguments in LOOKS.items():
            began = time.time()
            _, used_s = self._esper(*arguments)
            told = f"{fixture}; {used_s:.1f} s of the processor"
            yield Row(f"{name}, {when}", time.time() - began, "s", told, limit)

    def _until_archived(self) -> None:
        query = "SELECT count(*) FROM log.run_finished"
        while True:
            with open_history(self.data / "archive") as opened:
                if opened.execute(query).fetchone()[0] > self.runs:
                    return
            time.sleep(TICK_S)

    @contextmanager
    def _up(self) -> Iterator[None]:
        """Everything runs."""
        command = [sys.executable, "-P", "-m", "esper.cli", "up", "--data-dir", str(self.data)]
        with subprocess.Popen(command, env=self._environment(), stdout=subprocess.DEVNULL) as running:
            try:
                yield
            finally:
                running.terminate()

    def _esper(self, *arguments: str) -> tuple[str, float]:
        """What a command says, and its seconds of the processor."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-P", "-m", "esper.cli", *arguments, "--data-dir", str(self.data)]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "ESPER_BROKERS": self.log.address, "ESPER_KEY": KEY, "OMP_NUM_THREADS": "1"}

    def _watch(self, over: threading.Event) -> None:
        """Note what the processes of the folder need, and how far the archive is, until it is over."""
        while not over.wait(TICK_S):
            held = sum(covered(self.data / "archive").values()) if self.data.exists() else 0
            self.archived.append((time.monotonic(), held))
            for process in psutil.process_iter(["cmdline"]):
                if str(self.data) in " ".join(process.info["cmdline"] or ()):
                    self._note(process)

    def _note(self, process: psutil.Process) -> None:
        try:
            name = process.name().removeprefix("esper-")
            name = "supervisor" if "supervisor".startswith(name) else name  # the kernel keeps 15 letters
            self.peaks[name] = max(self.peaks.get(name, 0.0), process.memory_full_info().uss / 1e6)
            self.used[name, process.pid] = sum(process.cpu_times()[:2])
        except psutil.Error:
            return  # it has just ended


def size_of(folder: Path) -> int:
    """Bytes that all files in it take on the disk."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=RUNS, help="sizes of the history (default: %(default)s)")
    parser.add_argument("--log", choices=("embedded", "kafka"), default="embedded", help="(default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="measure in this new folder, and leave it there")
    options = parser.parse_args(arguments)
    found = []
    sys.stdout.write(HEADER + "\n")
    sizes = (measured(runs, options.log, options.keep and options.keep / str(runs)) for runs in options.runs)
    for row in itertools.chain(deciding(), *sizes):
        found.append(row)
        sys.stdout.write(line(row) + "\n")
        sys.stdout.flush()
    return int(failed(found))


if __name__ == "__main__":
    sys.exit(main())
