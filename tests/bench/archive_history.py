"""Archives that are asked: the SQL folds and the twenty standard questions over generated histories.

Warm, best of five, over an archive that is fully merged; each row says the processor time too, which a busy machine
spoils less. To make ten million events takes a quarter of an hour; `python -m tests.bench.archive --keep FOLDER` makes
them once.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

from projections import compaction, manifest, open_history, questions
from projections.archive_writer import Archive
from projections.generated import history, records
from projections.history import History
from tests.bench.table import Row

FOLDS = {
    "stage of every seed (reads all facts and moves)": "SELECT * FROM seeds",
    "problems of every run (reads all facts)": "SELECT * FROM stops",
}


def queried(events: int, keep: Path | None) -> list[Row]:
    """What needs an archive: its size, the folds, the questions."""
    with tempfile.TemporaryDirectory() as folder:
        archive = keep or Path(folder)
        if not manifest.load(archive).files:
            make(archive, events)
        with open_history(archive) as opened:
            return [*folds(opened), *asked(opened)]


def make(archive: Path, events: int, **shape: int) -> None:
    """An archive of generated runs, fully merged."""
    with Archive(archive) as owned:
        made = records(history(events, **shape))
        while part := list(itertools.islice(made, 50_000)):
            owned.append(part)
            if len(owned.manifest.files) > 400:
                compaction.merge_all(owned, compaction.MERGE_AT, time.time)
        compaction.merge_all(owned, 2, time.time)
        owned.delete_retired(time.time() + 1e6)


def folds(opened: History) -> list[Row]:
    """The rows that a fold really reads, per second."""
    facts = opened.execute("SELECT count(*) FROM log.facts").fetchone()[0]
    moves = opened.execute("SELECT count(*) FROM log.seed_transitioned").fetchone()[0]
    read = dict(zip(FOLDS, (facts + 2 * moves, facts + moves), strict=True))
    rows = []
    for name, query in FOLDS.items():
        wall_s, cpu_s = best(opened, query)
        limit = 3e6 if name.startswith("stage of every seed (") else None
        fixture = f"{read[name]:,} rows read in {wall_s * 1e3:.0f} ms, {cpu_s * 1e3:.0f} of the processor's"
        rows.append(Row(f"SQL fold: {name}", read[name] / wall_s, "rows/s", fixture, limit, at_least=True))
    return rows


def asked(opened: History) -> list[Row]:
    """Each question by itself; the limit is 50 ms over a million events and 300 ms over ten."""
    events = opened.execute("SELECT count(*) FROM log.every").fetchone()[0]
    run, event = (
        opened.execute(
            "SELECT run_id, event_id FROM log.adaptation_command ORDER BY run_id LIMIT 1 OFFSET 20_000"
        ).fetchone()
        or opened.execute("SELECT run_id, event_id FROM log.adaptation_command LIMIT 1").fetchone()
    )
    limit_ms = 50.0 if events < 3_000_000 else 300.0
    rows = []
    for name in questions.names():
        query = questions.text(name)
        given = {key: value for key, value in {"run": run, "step": 2_500, "event": event}.items() if f"${key}" in query}
        wall_s, cpu_s = best(opened, query, given)
        fixture = f"{events:,} events, {cpu_s * 1e3:.1f} ms of the processor's"
        rows.append(Row(f"question {name}", wall_s * 1e3, "ms", fixture, limit_ms))
    return rows


def best(opened: History, query: str, parameters: dict | None = None) -> tuple[float, float]:
    """Seconds on the wall and on the processor, each the best of five, rows fetched."""
    walls, cpus = [], []
    for _ in range(5):
        began, cpu = time.perf_counter(), time.process_time()
        opened.connection.execute(query, parameters).fetchall()
        walls.append(time.perf_counter() - began)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)
