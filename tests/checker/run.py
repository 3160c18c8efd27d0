"""One check: a house, a plan carried out in it, the evidence and the complaints. `python -m tests.checker.run -h`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import resource
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError

from contracts.topics import PARTITIONS, RUNS, TOPICS, Topic
from esper.errors import EsperError
from esper.leyline.objects import ObjectStore
from projections import open_history
from projections.cross_checks import Beside
from projections.manifest import covered
from projections.wholeness import examine
from streams.consumer import ends_of
from streams.topics import APPEND_TIME
from tests.checker import judge
from tests.checker.faults import Faults
from tests.checker.house import PROJECTOR, SERVICES, Forker, House, Process
from tests.checker.judge import Evidence
from tests.checker.model import Row, Told
from tests.checker.plan import Planner, Step

SEGMENT_BYTES = 4_096
SETTLE_S = 30.0
END_S = 45.0
"""Longer than a resume waits for the archive."""
BACKLOG = 4
NEWS_S = 0.3
"""How long a claim may take to reach who owned the run before."""
HOPELESS = 4


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check came to."""

    operations: int
    faults: int
    acknowledged: int
    complaints: list[str]
    deaths: list[str]

    def summary(self) -> str:
        """In words, with what services died of by themselves."""
        died = "".join(f"\n  died {times} times: {why}" for why, times in Counter(self.deaths).items())
        counts = f"{self.operations} operations, {self.faults} faults, {self.acknowledged} events acknowledged"
        return f"{counts}, {len(self.complaints)} complaints{died}"


def check(folder: Path, forker: Forker, steps: Sequence[Step], mutation: str = "") -> Checked:
    """Carry out a plan in a new house in `folder`, and judge."""
    with House(folder, forker, mutation) as house:
        open_house(house)
        carry_out(house, steps)
        evidence = settle(house)
    return Checked(
        sum(not step.fault for step in steps),
        sum(step.fault and step.what not in ("over", "copy") for step in steps),
        len(evidence.told.acknowledged),
        judge.complaints(evidence),
        house.deaths,
    )


def open_house(house: House) -> None:
    """Start its services, with topics of small segments."""
    assert house.start_broker(), house.deaths
    asyncio.run(_make_topics(house.brokers))
    house.start_followers()


async def _make_topics(brokers: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        await admin.create_topics([_with_small_segments(topic) for topic in TOPICS])
    finally:
        await admin.close()


def _with_small_segments(topic: Topic) -> NewTopic:
    configs = {"retention.ms": str(topic.retention_ms), "segment.bytes": str(SEGMENT_BYTES), **APPEND_TIME}
    return NewTopic(topic.name, PARTITIONS, 1, topic_configs=configs)


def carry_out(house: House, steps: Sequence[Step]) -> None:
    """Order the operations and do the faults, one after the other, without waiting for what was ordered."""
    faults = Faults(house)
    for step in steps:
        house.tend()
        if step.fault:
            faults.do(step.what, **step.how)
        elif step.what == "trim":
            trim(house)
        elif step.what in ("done", "rest"):
            assert not _wait(house, lambda process: process.done() < process.ordered), (
                "clients do not do what is ordered"
            )
            if step.what == "rest":
                archived(house)
        else:
            process = house.clients.get(step.who) or house.client(step.who.rstrip("0123456789"), step.who)
            process.order(do=step.what, **step.how)
            if process.alive() and process.ordered - process.done() > BACKLOG:
                time.sleep(0.1)
        time.sleep(step.pause_s)


def trim(house: House) -> None:
    """Delete from the log what is archived, which makes the archive the only one that has it."""
    with contextlib.suppress(KafkaError, EsperError, OSError, TimeoutError):
        ends = {place: end for place, end in covered(house.archive).items() if end}
        asyncio.run(asyncio.wait_for(_delete(house.brokers, ends), 2.0))


async def _delete(brokers: str, ends: dict[tuple[str, int], int]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    try:
        await admin.start()
        await admin.delete_records({TopicPartition(*place): RecordsToDelete(end) for place, end in ends.items()})
    finally:
        await admin.close()


# ---------------------------------------------------------------------------------------------------------- the end


def settle(house: House) -> Evidence:
    """Let everything come to its end with nothing in its way, stop it, and read what there is."""
    for process in house.processes():
        Faults(house).over(process.name)
    troubles = [*_end_clients(house), *archived(house)]
    ends = None
    try:
        ends = ends_of(house.brokers, TOPICS)
    except EsperError as error:
        troubles.append(f"the log does not answer in the end: {error}")
    projections, stuck = _projections(house)
    troubles += stuck
    for name in reversed(SERVICES):
        house.stop(name, kill=False)
    told = Told.by(map(json.loads, house.journal_path.read_text("utf-8").splitlines()))
    with open_history(house.archive) as history:
        found = examine(history, beside=Beside(ends, ObjectStore(house.data / "objects"), house.keys))
        named = [judge.named(each.kind, each.where, each.what, serious=each.serious) for each in found]
        query = (
            "SELECT log_topic, log_partition, log_offset, event_id, log_body, run_id, incarnation, sequence, "
            "log_verdict, log_raw FROM log.every ORDER BY log_topic, log_partition, log_offset"
        )
        rows = [_row(*row) for row in history.execute(query).fetchall()]
    broken = {ref for ref in told.kept if not _whole(house.data / "objects", ref)}
    return Evidence(told, rows, named, troubles, broken, projections)


def _whole(objects: Path, ref: str) -> bool:
    digest = ref.removeprefix("sha256:")
    path = objects / digest[:2] / digest[2:]
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _projections(house: House) -> tuple[dict[str, dict[str, bool | None]], list[str]]:
    """The projections' tables once they have caught up, and what keeps them from there.

    A bit that flipped where nothing was read since is found when their files are opened, and mended then.
    """
    for turn in range(3):
        stuck = _caught_up(house)
        house.stop(PROJECTOR, kill=False)
        # A copy: where a file cannot be read this process would keep its lock.
        copied = shutil.copytree(house.data / "projections", house.folder / f"projections-{turn}")
        try:
            return _tables(copied), stuck
        except duckdb.Error as error:
            why = str(error)
    return {}, [f"the projections cannot be read: {why}"]


def _caught_up(house: House) -> list[str]:
    """Start the projector once more and wait until it has caught up; what keeps it from there."""
    house.stop(PROJECTOR, kill=False)
    house.start_follower(PROJECTOR)
    deaths, deadline = len(house.deaths), time.monotonic() + SETTLE_S
    while not house.services[PROJECTOR].wait("ready", 0.05):
        house.tend()
        if time.monotonic() > deadline or _again_and_again(house.deaths[deaths:]):
            return [f"the projections do not come to the end of the log ({', '.join(house.deaths[-1:])})"]
    return []


def _tables(projections: Path) -> dict[str, dict[str, bool | None]]:
    """The events of the projections' tables of events, and whether each counts where the table says so."""
    found = {}
    for table in judge.TABLES.values():
        path = projections / f"{table.partition('.')[0]}.duckdb"
        if path.exists():
            with duckdb.connect(path, read_only=True) as connection:
                answer = connection.execute(f"SELECT * FROM {table.partition('.')[2]}")
                columns = [column[0] for column in answer.description]
                rows = [dict(zip(columns, row, strict=True)) for row in answer.fetchall()]
            found[table] = {row["event_id"].hex(): _counts(row.get("verdict")) for row in rows}
    return found


def _counts(verdict: int | None) -> bool | None:
    return None if verdict is None else verdict == 1


def _row(topic, partition, offset, event_id, body, run, incarnation, sequence, verdict, raw) -> Row:
    counts = verdict == 1 if topic == RUNS.name else None
    digest = hashlib.sha256(raw).hexdigest()[:16]
    return Row(topic, partition, offset, event_id.hex(), body, run, incarnation, sequence, counts, digest)


def _end_clients(house: House) -> list[str]:
    """Have all clients do what they were ordered, look once more who owns their run, and end."""
    late = _wait(house, lambda process: process.done() < process.ordered)
    time.sleep(NEWS_S)
    house.journal.note("all know")
    for process in house.clients.values():
        if process.name.startswith("trainer"):
            process.order(do="obey")
        process.order(do="end")
    left = _wait(house, Process.alive)
    for process in left:
        process.kill()
    return [f"{process.name} did not come to its end within {END_S:.0f} s" for process in {*late, *left}]


def _wait(house: House, busy: Callable[[Process], bool]) -> list[Process]:
    """Wait while a living client is busy; those that still are after a while."""
    deadline = time.monotonic() + END_S
    while left := [process for process in house.clients.values() if process.alive() and busy(process)]:
        if time.monotonic() > deadline:
            return left
        house.tend()
        time.sleep(0.01)
    return []


def archived(house: House) -> list[str]:
    """Wait until the archive has come to the end of the log; what keeps it from there."""
    deadline = time.monotonic() + SETTLE_S
    why, deaths = "", len(house.deaths)
    while time.monotonic() < deadline and not _again_and_again(house.deaths[deaths:]):
        house.tend()
        try:
            ends, has = ends_of(house.brokers, TOPICS), covered(house.archive)
        except EsperError as error:
            why = str(error)
        else:
            behind = {place: (has.get(place, 0), end) for place, end in ends.items() if has.get(place, 0) < end}
            if not behind:
                return []
            why = f"(archived, end) is {behind}"
        time.sleep(0.03)
    return [f"the archive does not come to the end of the log: {why} ({', '.join(house.deaths[-1:])})"]


def _again_and_again(deaths: Sequence[str]) -> bool:
    """Whether services died of one cause and of nothing else, more often than chance would have it."""
    return len(deaths) >= HOPELESS and len(set(deaths)) == 1


def main() -> int:
    """Checks by hand, of one seed or of several; 1 where one complains."""
    parser = argparse.ArgumentParser(prog="python -m tests.checker.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--count", type=int, default=1, help="so many seeds, from --seed on")
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--mutation", default="")
    parser.add_argument("--folder", type=Path, help="keep the houses there")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="checker-"))
    folder.mkdir(parents=True, exist_ok=True)
    complained = False
    with Forker(folder) as forker:
        for seed in range(options.seed, options.seed + options.count):
            began, house = time.monotonic(), folder / str(seed)
            house.mkdir()
            steps = Planner(seed).plan(options.operations, options.faults)
            found = check(house, forker, steps, options.mutation)
            lines = [f"seed {seed}: {found.summary()}, {time.monotonic() - began:.1f} s, in {house}", *found.complaints]
            sys.stdout.write("\n  ".join(lines) + "\n")
            sys.stdout.flush()
            complained |= bool(found.complaints)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stdout.write(f"{used.ru_utime + used.ru_stime + time.process_time():.1f} s of a processor\n")
    return int(complained)


if __name__ == "__main__":
    sys.exit(main())
