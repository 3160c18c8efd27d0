"""Beside others, in the same run: DuckDB over JSON lines, and the replay of pyeventsourcing's aggregates.

JSON lines are how a known growth trainer keeps its events. The same generated history for all, warm, best of three.
Needs the extra `bench` (`pip install -e '.[bench]'`).
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
from google.protobuf.json_format import MessageToDict

from contracts.leyline.v1 import event_pb2
from esper.record import replay
from projections import compaction, lineage, open_history
from projections.archive_writer import Archive
from projections.generated import history, records
from tests.bench.table import Row

QUESTIONS = {
    "events by type": (
        "SELECT log_body, count(*) FROM log.every GROUP BY ALL ORDER BY ALL",
        "SELECT body, count(*) FROM events GROUP BY ALL ORDER BY ALL",
    ),
    "last stage of every seed": (
        "SELECT run_id, seed_id, max_by(to_stage, sequence) FROM log.seed_transitioned GROUP BY ALL ORDER BY ALL",
        """SELECT run_id, content->>'seed_id', max_by((content->>'to_stage')::INTEGER, sequence) FROM events
        WHERE body = 'seed_transitioned' GROUP BY ALL ORDER BY ALL""",
    ),
    "99th percentile of the hook, per run": (
        "SELECT run_id, quantile_cont(hook_ms_before, 0.99) FROM log.epoch_completed GROUP BY ALL ORDER BY ALL",
        """SELECT run_id, quantile_cont((content->>'hook_ms_before')::FLOAT, 0.99) FROM events
        WHERE body = 'epoch_completed' GROUP BY ALL ORDER BY ALL""",
    ),
}
COLUMNS = """{event_id: 'VARCHAR', run_id: 'VARCHAR', sequence: 'BIGINT', epoch: 'INTEGER', step: 'BIGINT',
    body: 'VARCHAR', content: 'JSON'}"""


def rows(*, full: bool = False) -> list[Row]:
    """A hundred thousand events, or three times as many."""
    return beside(300_000 if full else 100_000)


def beside(events: int) -> list[Row]:
    """All peers over a history of so many events."""
    with tempfile.TemporaryDirectory() as folder:
        made = list(itertools.islice(history(events), events))
        placed = records(iter(made))
        with Archive(Path(folder) / "archive") as archive:
            while part := list(itertools.islice(placed, 50_000)):
                archive.append(part)
            compaction.merge_all(archive, 2, time.time)
        return [*_json_lines(Path(folder), made), *_replays(Path(folder), made)]


def _json_lines(folder: Path, made: list[event_pb2.Event]) -> Iterator[Row]:
    lines = folder / "events.jsonl"
    with lines.open("w") as file:
        file.writelines(json.dumps(_as_json(event)) + "\n" for event in made)
    peer = duckdb.connect()
    peer.execute(f"CREATE VIEW events AS FROM read_json('{lines}', format = 'newline_delimited', columns = {COLUMNS})")
    with open_history(folder / "archive") as ours:
        for name, (over_archive, over_lines) in QUESTIONS.items():
            answers = ours.execute(over_archive).fetchall(), peer.execute(over_lines).fetchall()
            assert answers[0] == answers[1], f"{name}: the answers differ"
            mine = best(lambda query=over_archive: ours.connection.execute(query).fetchall())
            theirs = best(lambda query=over_lines: peer.execute(query).fetchall())
            fixture = (
                f"{len(made):,} events; over JSON lines {theirs * 1e3:,.0f} ms, {theirs / mine:,.0f} times as long"
            )
            yield Row(f"beside DuckDB over JSON lines: {name}", mine * 1e3, "ms", fixture)


def _as_json(event: event_pb2.Event) -> dict[str, Any]:
    body = event.WhichOneof("body")
    content = MessageToDict(getattr(event, body), preserving_proto_field_name=True, use_integers_for_enums=True)
    return {
        "event_id": event.event_id.hex(),
        "run_id": event.run_id,
        "sequence": event.sequence,
        "epoch": event.epoch,
        "step": event.global_step,
        "body": body,
        "content": content,
    }


def _replays(folder: Path, made: list[event_pb2.Event]) -> Iterator[Row]:
    """Rebuilding the state of runs from their stored facts: theirs from SQLite, ours from the archive."""
    facts = [event for event in made if event.sequence]
    runs = sorted({event.run_id for event in facts})
    theirs, count = _pyeventsourcing(folder, facts)
    with open_history(folder / "archive") as ours:
        whole = "SELECT count(*), sum(stage) FROM seeds"
        by_sql = best(lambda: ours.connection.execute(whole).fetchall())
        by_python = best(lambda: [replay(lineage.facts(ours, run)) for run in runs], times=1)
    fixture = f"{count:,} facts of {len(runs)} runs; pyeventsourcing {count / theirs:,.0f}/s"
    yield Row("beside pyeventsourcing: every run's fold, SQL", count / by_sql, "facts/s", fixture)
    yield Row("beside pyeventsourcing: every run's fold, Python", len(facts) / by_python, "facts/s", fixture)


def _pyeventsourcing(folder: Path, facts: list[event_pb2.Event]) -> tuple[float, int]:
    """Seconds to rebuild every run as an aggregate of its facts, and how many those are."""
    os.environ |= {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(folder / "peer.db")}
    from eventsourcing.application import Application
    from eventsourcing.domain import Aggregate, event

    class Run(Aggregate):
        """A run as the stages of its seeds."""

        @event("Started")
        def __init__(self, name: str) -> None:
            self.name = name
            self.stages: dict[str, int] = {}
            self.facts = self.step = 0

        @event("Noted")
        def note(self, seed_id: str, stage: int, step: int) -> None:
            self.facts += 1
            self.step = step
            if seed_id:
                self.stages[seed_id] = stage

    app: Application[UUID] = Application()
    ids = []
    for name, group in itertools.groupby(facts, key=lambda fact: fact.run_id):
        run = Run(name)
        for fact in group:
            moved = fact.seed_transitioned
            run.note(moved.seed_id, moved.to_stage, fact.global_step)
        app.save(run)
        ids.append(run.id)
    count = len(facts) + len(ids)
    seconds = best(lambda: [app.repository.get(each) for each in ids])
    app.close()
    return seconds, count


def best(work: Callable[[], Any], *, times: int = 3) -> float:
    """Seconds."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
