"""Every projection counts every event once: repeated, in another order across topics, killed between any two writes."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from contracts.leyline.v1 import event_pb2 as pb
from contracts.topics import FOR_EVER
from esper.errors import InvalidInput
from esper.history import replay
from esper.leyline import envelope
from esper.leyline.envelope import Event
from projections import open_history
from projections.archive import Archive
from projections.projection import Projection, Script
from projections.rebuild import follow, rebuild, seen
from projections.records import StoredRecord
from projections.registry import PROJECTIONS, file_of
from projections.store import Locked, Store
from projections.story import story
from projections.testing import LogOfRecords, Trainers
from tests.unit.projections import keep_log

ROOT = Path(__file__).parents[3]
KEPT = sorted(keep_log.KEPT.glob("*.jsonl"))
EVERY = pytest.mark.parametrize("projection", PROJECTIONS.values(), ids=list(PROJECTIONS))

# Folds the records of argv[3] into the projection argv[1] at argv[2] in batches of 9; dies at the argv[4]-th statement.
FOLD = """
import os, pickle, signal, sys
from pathlib import Path
from projections.registry import PROJECTIONS
from projections.store import Store

class Mortal:
    def __init__(self, connection, left):
        self.connection, self.left = connection, left
    def execute(self, *arguments):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.connection.execute(*arguments)
    def __getattr__(self, name):
        return getattr(self.connection, name)

projection, path, records = PROJECTIONS[sys.argv[1]], Path(sys.argv[2]), pickle.loads(Path(sys.argv[3]).read_bytes())
with Store(projection, path, None) as store:
    store._connection = Mortal(store._connection, int(sys.argv[4]))
    for start in range(0, len(records), 9):
        store.take(records[start : start + 9])
"""


@pytest.fixture(scope="module")
def records() -> list[StoredRecord]:
    return LogOfRecords().place(story())


def content(store: Store) -> dict[str, list[dict]]:
    return {view: keep_log.rows(store, view) for view in store.projection.views}


@pytest.fixture(scope="module")
def expected(records) -> dict[str, dict]:
    """What each projection makes of the sample."""
    return keep_log.tables(records)


def overtaken(records: list[StoredRecord], seed: int) -> list[StoredRecord]:
    """The same records in another order that keeps every partition's own."""
    chance, queues = random.Random(seed), dict[tuple[str, int], list[StoredRecord]]()
    for record in records:
        queues.setdefault((record.topic, record.partition), []).append(record)
    out = []
    while queues:
        place = chance.choice(sorted(queues))
        out.append(queues[place].pop(0))
        if not queues[place]:
            del queues[place]
    return out


def with_repetitions(events: list[Event], seed: int) -> list[StoredRecord]:
    """The log got some events a second time, byte for byte, at later places."""
    chance = random.Random(seed)
    return LogOfRecords().place([*events, *chance.choices(events, k=12)])


@EVERY
@pytest.mark.parametrize("seed", range(4))
def test_repetitions_orders_and_batches_make_no_difference(projection, expected, seed):
    """Topics overtake each other, events come again at later places, and records are delivered a second time."""
    chance, told = random.Random(seed), overtaken(with_repetitions(story(), seed), seed)
    with Store(projection, None, None) as store:
        start = 0
        while start < len(told):
            end = start + chance.randrange(1, 20)
            store.take(told[start:end])
            again = [record for record in told[:end] if record.topic == told[start].topic]
            assert store.take(again).folded == 0
            start = end

        assert content(store) == expected[projection.name]


@EVERY
def test_a_file_that_froze_between_any_two_writes_goes_on_to_the_same_end(projection, records, expected, tmp_path):
    """What kill -9 leaves is what the files hold at that moment: each such moment is copied and gone on from."""
    copies: list[Path] = []

    class Watched:
        def __init__(self, connection):
            self._connection = connection

        def execute(self, *arguments):
            copy = tmp_path / f"copy-{len(copies)}"
            copy.mkdir()
            for file in (tmp_path / "live").iterdir():
                shutil.copy(file, copy)
            copies.append(copy)
            return self._connection.execute(*arguments)

        def __getattr__(self, name):
            return getattr(self._connection, name)

    with Store(projection, tmp_path / "live" / "it.duckdb", None) as live:
        live._connection = Watched(live._connection)
        for start in range(0, len(records), 30):
            live.take(records[start : start + 30])

    assert len(copies) > 6
    for copy in copies:
        with Store(projection, copy / "it.duckdb", None) as store:
            store.take(records)
            assert content(store) == expected[projection.name], copy.name
        shutil.rmtree(copy)


@EVERY
@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.soak)])
def test_killed_at_random_statements_it_ends_with_the_same_tables(projection, records, expected, tmp_path, kills):
    path, script = tmp_path / "it.duckdb", tmp_path / "records"
    script.write_bytes(pickle.dumps(records))
    chance = random.Random(kills)

    def run(left):
        command = [sys.executable, "-c", FOLD, projection.name, str(path), str(script), str(left)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)

    codes = [run(chance.randrange(1, 12)).returncode for _ in range(kills)]
    last = run(-1)

    assert -signal.SIGKILL.value in codes
    assert (last.returncode, last.stderr) == (0, "")
    with Store(projection, path, None) as store:
        assert content(store) == expected[projection.name]


@EVERY
def test_an_error_between_two_writes_leaves_nothing_of_the_batch(projection, records, expected):
    class Failing:
        def __init__(self, connection, at):
            self._connection, self._at = connection, at

        def execute(self, *arguments):
            self._at -= 1
            if self._at == 0:
                raise OSError("the disk is full")
            return self._connection.execute(*arguments)

        def __getattr__(self, name):
            return getattr(self._connection, name)

    with Store(projection, None, None) as store:
        good, empty = store._connection, content(store)
        for at in (2, 3, 4):
            store._connection = Failing(good, at)
            with pytest.raises(OSError, match="full"):
                store.take(records)
            store._connection = good
            assert (content(store), store.next_offsets) == (empty, {})
        store.take(records)

        assert content(store) == expected[projection.name]


@EVERY
def test_the_archive_alone_gives_the_same_tables(projection, records, expected, tmp_path):
    """With nothing running; and going on from there with the live log changes nothing."""
    with Archive(tmp_path / "archive") as archive:
        archive.append(records)
    seen_of = []
    with open_history(tmp_path / "archive") as history:
        taken = rebuild(projection, tmp_path, history, lambda done, total: seen_of.append((done, total)))
        assert seen(projection, tmp_path).state == "ready"
    with Store(projection, file_of(tmp_path, projection), None) as store:
        assert content(store) == expected[projection.name]
        assert store.take(records).folded == 0

    assert taken.folded > 0
    assert seen_of[-1][0] == seen_of[-1][1] >= taken.folded


def test_what_the_archive_gets_later_is_followed(records, expected, tmp_path):
    projection = PROJECTIONS["experience"]
    with Archive(tmp_path / "archive") as archive, Store(projection, None, None) as store:
        for start in range(0, len(records), 20):
            archive.append(records[start : start + 20])
            with open_history(tmp_path / "archive") as history:
                follow(store, history, lambda _done, _total: None)
        assert content(store) == expected["experience"]


def test_an_interrupted_rebuild_leaves_the_old_file(records, tmp_path, expected):
    projection = PROJECTIONS["runs"]
    with Archive(tmp_path / "archive") as archive:
        archive.append(records)

    def stop(done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with open_history(tmp_path / "archive") as history:
        rebuild(projection, tmp_path, history)
        with pytest.raises(KeyboardInterrupt):
            rebuild(projection, tmp_path, history, stop)
        with Store(projection, file_of(tmp_path, projection), None) as store:
            assert content(store) == expected["runs"]
        rebuild(projection, tmp_path, history)

    assert [path.name for path in (tmp_path / "projections").iterdir()] == ["runs.duckdb"]


def test_a_file_that_a_process_keeps_is_left_to_it(tmp_path):
    """DuckDB lets a process open its own file twice, so the keeper is another process."""
    projection = PROJECTIONS["reports"]
    path = file_of(tmp_path, projection)
    (tmp_path / "archive").mkdir()
    path.parent.mkdir()
    program = f"import duckdb; c = duckdb.connect({str(path)!r}); print('ready', flush=True); input()"
    keeper = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert keeper.stdout.readline() == "ready\n"
        with open_history(tmp_path / "archive") as history, pytest.raises(Locked, match="kept by a running process"):
            rebuild(projection, tmp_path, history)
        assert seen(projection, tmp_path).state == "kept"
    finally:
        keeper.communicate("\n", timeout=30)


# ------------------------------------------------------------------------------------------------- tables that change


class Changed(Projection):
    """Reports as an Esper with other migrations has them."""

    def migrations(self):
        return [*PROJECTIONS["reports"].migrations(), *MORE]


MORE: list[Script] = []


@pytest.fixture
def later(monkeypatch):
    """The projection `reports` of a later Esper, with a migration more."""

    def make(text: str) -> Projection:
        monkeypatch.setattr(sys.modules[__name__], "MORE", [Script("0002_more", text)])
        today = PROJECTIONS["reports"]
        return Changed(**{name: getattr(today, name) for name in Projection.__slots__})

    return make


def migrations_of(store: Store) -> list[str]:
    return [name for (name,) in store.cursor().execute("SELECT name FROM migrations ORDER BY number").fetchall()]


def test_an_older_file_is_migrated_and_keeps_its_rows(records, expected, tmp_path, later):
    path = tmp_path / "it.duckdb"
    with Store(PROJECTIONS["reports"], path, None) as store:
        store.take(records)
    with Store(later("ALTER TABLE reported ADD COLUMN weight DOUBLE DEFAULT 0.5"), path, None) as store:
        assert (store.migrated, migrations_of(store)) == (["0002_more"], ["0001_events", "0002_more"])
        assert store.next_offsets != {}
        assert store.cursor().execute("SELECT weight FROM reported").fetchall() == [(0.5,)]
        assert content(store) == expected["reports"]


def test_a_migration_that_needs_old_events_folds_them_again(records, expected, tmp_path, later):
    path = tmp_path / "it.duckdb"
    with Store(PROJECTIONS["reports"], path, None) as store:
        store.take(records)
    with Store(later("-- rebuild: weights come from the events\nSELECT 1"), path, None) as store:
        assert (store.migrated, store.next_offsets) == (["0001_events", "0002_more"], {})
        store.take(records)
        assert content(store) == expected["reports"]


def test_a_newer_file_is_refused_and_untouched(records, tmp_path, later):
    path = file_of(tmp_path, PROJECTIONS["reports"])
    with Store(later("SELECT 1"), path, None) as store:
        store.take(records)
    before = path.read_bytes()

    with pytest.raises(InvalidInput, match=r"newer Esper.*0002_more.*esper projections rebuild reports"):
        Store(PROJECTIONS["reports"], path, None)
    assert path.read_bytes() == before
    assert seen(PROJECTIONS["reports"], tmp_path).state == "newer"


@pytest.mark.parametrize("damage", ["garbage", "other tables", "another text"])
def test_a_file_that_cannot_be_used_is_made_anew(records, expected, tmp_path, damage):
    path = tmp_path / "it.duckdb"
    if damage == "garbage":
        path.write_bytes(b"this is no database" * 1_000)
    elif damage == "other tables":
        with duckdb.connect(path) as connection:
            connection.execute("CREATE TABLE reported (event_id BLOB); CREATE VIEW old AS FROM reported")
    else:
        with Store(PROJECTIONS["reports"], path, None) as store:
            store.take(records)
            store._connection.execute("UPDATE migrations SET digest = 'of another text'")

    with Store(PROJECTIONS["reports"], path, None) as store:
        assert store.next_offsets == {}
        store.take(records)
        assert content(store) == expected["reports"]


def test_a_view_that_changed_is_replaced_without_folding_again(records, expected, tmp_path):
    path = tmp_path / "it.duckdb"
    with Store(PROJECTIONS["urza"], path, None) as store:
        store.take(records)
        store._connection.execute("UPDATE views SET digest = 'of another text'")
        store._connection.execute("DELETE FROM library")
    with Store(PROJECTIONS["urza"], path, None) as store:
        assert (store.migrated, store.next_offsets != {}) == ([], True)
        assert content(store) == expected["urza"]
        assert len(store.cursor().execute("FROM library").fetchall()) == 2


# --------------------------------------------------------------------------------------------- logs that are kept


@pytest.mark.parametrize("log", KEPT, ids=[path.stem for path in KEPT])
def test_a_log_of_an_older_schema_gives_the_tables_that_it_gave_then(log):
    kept = [keep_log.from_line(line) for line in log.read_text(encoding="utf-8").splitlines()]
    then = json.loads(log.with_suffix(".tables.json").read_text(encoding="utf-8"))
    now = keep_log.tables(kept)

    for name, views in then.items():
        for view, rows in views.items():
            columns = rows[0] if rows else {}
            assert [{column: row[column] for column in columns} for row in now[name][view]] == rows, (name, view)


def test_today_is_kept():
    """A schema version that rises leaves its log behind: `keep_log.py` writes it."""
    assert f"v{envelope.SCHEMA_VERSION}" in [path.stem for path in KEPT]


def test_an_upcaster_gives_an_old_log_the_tables_of_a_new_one(monkeypatch, records, expected):
    """A later schema says reports' loss in millinats and calls a policy's id by a longer name; both logs fold alike."""
    later = [Event.FromString(record.value or b"") for record in records]
    for event in later:
        event.schema_version = 2
        if event.HasField("field_report"):
            event.field_report.metrics["loss_delta_total"] *= 1_000
        if event.HasField("policy_trained"):
            event.policy_trained.policy_id = f"policy/{event.policy_trained.policy_id}"

    def in_millinats(event):
        event.field_report.metrics["loss_delta_total"] *= 1_000

    def longer(event):
        event.policy_trained.policy_id = f"policy/{event.policy_trained.policy_id}"

    with pytest.raises(AssertionError):
        assert keep_log.tables(LogOfRecords().place(later)) == expected  # of a version that this one does not read
    monkeypatch.setattr(envelope, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(
        "esper.leyline.upcast.UPCASTERS", {("field_report", 1): in_millinats, ("policy_trained", 1): longer}
    )
    old, new = keep_log.tables(records), keep_log.tables(LogOfRecords().place(later))

    assert old == new
    assert old["reports"]["reports"][0]["loss_delta"] == -125
    assert {row["policy_id"] for row in old["policies"]["policies"]} == {"policy/ppo"}
    assert old["runs"] == expected["runs"]


# --------------------------------------------------------------------------------------------------- what they say


def at_random(number: int) -> Trainers:
    """A run with rollbacks, resumes and zombies."""
    chance, run = random.Random(number), Trainers(f"run-{number}")
    for _ in range(chance.randrange(25)):
        match chance.randrange(10):
            case 0:
                run.roll_back(chance.randrange(4), chance.randrange(6))
            case 1:
                run.resume(chance.randrange(4), 1)
            case 2:
                run.finish(chance.randrange(4))
            case _:
                run.complete_epoch(chance.randrange(4))
    return run


def test_runs_are_as_the_archive_and_the_fold_have_them(tmp_path):
    """Where the fold takes a run, all three have the same to say."""
    runs = [at_random(number) for number in range(80)]
    placed = LogOfRecords().place(event for run in runs for event in run.events)
    with Archive(tmp_path) as archive:
        archive.append(placed)
    names = "run_id, status, epochs_done, steps_done, probe_loss, test_accuracy, params_final, incarnation, started_at"
    with open_history(tmp_path) as history, Store(PROJECTIONS["runs"], None, None) as store:
        held = history.execute(f"SELECT {names} FROM runs WHERE status <> 'stopped' ORDER BY ALL").fetchall()
        store.take(placed)
        own = store.cursor().execute(f"SELECT {names} FROM runs ORDER BY ALL").fetchall()
    folds = {run.run_id: replay(run.events) for run in runs}

    assert len(held) > 30
    assert {row[1] for row in held} == {"running", "completed"}
    assert max(row[7] for row in held) > 2
    assert [row for row in own if row[0] in {run for run, *_ in held}] == held
    assert {run: status for run, status, *_ in held} == {
        run: state.status for run, state in folds.items() if state.problem is None
    }


def test_experience_has_what_a_learner_needs(expected):
    rows = [row for row in expected["experience"]["experience"] if row["run_id"] == "grown"]
    grew = next(row for row in rows if row["command_id"] is not None)
    undone = [row for row in rows if row["undone"]]

    assert len({row["decision_id"] for row in rows}) == len(rows) == 7
    assert pb.EpochCompleted.FromString(bytes.fromhex(grew["observation"])).state.current_epoch == grew["epoch"] == 2
    assert (grew["actions"][grew["action"]], grew["logits"], grew["draw"]) == (
        "germinate s1 BP009",
        [0.5, -0.25],
        0.125,
    )
    assert (grew["action_mask"], grew["value_estimate"], grew["policy_version"]) == ("0101", 0.75, "1")
    assert (grew["outcome"], grew["loss_delta"], grew["ended_as"]) == ("applied", -0.125, "fossilized")
    assert (grew["probe_loss"], grew["next_probe_loss"]) == (0.5, pytest.approx(1 / 3))
    assert (grew["test_accuracy"], grew["control_accuracy"]) == (0.91, 0.88)
    assert sorted((row["epoch"], row["is_last"]) for row in undone) == [(3, False), (4, True)]
    assert sum(row["is_last"] for row in rows) == 2


def test_every_body_that_is_named_belongs_to_a_topic_that_is_kept_for_ever():
    for projection in PROJECTIONS.values():
        bodies = {body for topic in projection.sources for body in topic.bodies}
        assert projection.rows.keys() <= bodies
        assert all(topic.retention_ms == FOR_EVER for topic in projection.sources)
