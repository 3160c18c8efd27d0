"""The catalogue counts every event exactly once: repeated, in another order across topics, and killed at any write."""

from __future__ import annotations

import pickle
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.topics import FOR_EVER
from esper.leyline.envelope import parse
from projections import open_history
from projections.archive_writer import Archive
from projections.library import URZA, Library
from projections.lineage import stored_records

ROOT = Path(__file__).parents[3]
BLUEPRINTS = ("BP001", "BP009", "BP036")

# Folds the records of argv[2] into argv[1] in batches of three and dies at the argv[3]-th statement.
FOLD = """
import pickle, sys
from pathlib import Path
from esper.leyline.signing import KeyRing
from projections.library import Library
from tests.mortal import Mortal

path, records, left = Path(sys.argv[1]), pickle.loads(Path(sys.argv[2]).read_bytes()), int(sys.argv[3])
library = Library(path, KeyRing((b"k" * 32,)))
library._connection = Mortal(library._connection, left)
for start in range(0, len(records), 3):
    library.take(records[start : start + 3])
library.close()
"""


def play(news, steps):
    """A history of a few blueprints; each step is a kind of event, a blueprint, and a number."""
    version, refs = 0, {}
    for kind, which, number in steps:
        blueprint = BLUEPRINTS[which % len(BLUEPRINTS)]
        match kind:
            case "register":
                news.registered(blueprint, risk=number / 10, approval_required=blueprint == "BP036")
            case "approve":
                news.approved(blueprint, approved=number % 2 == 0)
            case "store":
                version += 1
                refs[blueprint] = news.stored(version, blueprint, width=number % 2 + 1)
            case "attach":
                news.attached(refs.get(blueprint, "sha256:none"), blueprint)
    return news


def repeated(news, which):
    """The log gets some events a second time, at later places."""
    for number in which:
        record = news.records[number % len(news.records)]
        news.say(None, blueprint=record.key.decode(), event=parse(record.value))


def topics_shuffled(records, seed):
    """The same records in another order that keeps every partition's own."""
    generator = random.Random(seed)
    queues = {}
    for record in records:
        queues.setdefault((record.topic, record.partition), []).append(record)
    out = []
    while queues:
        place = generator.choice(sorted(queues))
        out.append(queues[place].pop(0))
        if not queues[place]:
            del queues[place]
    return out


STEPS = st.lists(
    st.tuples(st.sampled_from(["register", "approve", "store", "attach"]), st.integers(0, 2), st.integers(0, 9)),
    min_size=1,
    max_size=12,
)


def rows_of(library):
    return library._connection.execute("SELECT * FROM library ORDER BY ALL").fetchall()


@pytest.mark.requirement("R-SIM-2")
@settings(max_examples=15)
@given(STEPS, st.lists(st.integers(0, 99), max_size=6), st.integers(0, 99), st.integers(1, 7), st.integers(0, 99))
def test_repetitions_orders_and_batches_make_no_difference(make_news, ring, steps, again, seed, batch, back):
    """Events come again at later offsets, topics overtake each other, and records are delivered a second time."""
    news = play(make_news(), steps)
    with Library(None, ring) as plain, Library(None, ring) as other:
        plain.take(news.records)
        repeated(news, again)
        records = topics_shuffled(news.records, seed)
        for start in range(0, len(records), batch):
            other.take(records[start : start + batch])
            place = (records[start].topic, records[start].partition)
            before = [one for one in records[: start + 1] if (one.topic, one.partition) == place]
            taken = other.take(before[back % len(before) :])
            assert taken.folded == 0

        assert rows_of(other) == rows_of(plain)


STORY = [
    ("register", 0, 3),
    ("store", 0, 0),
    ("attach", 0, 0),
    ("register", 2, 7),
    ("approve", 2, 0),
    ("store", 2, 1),
    ("store", 0, 0),
    ("approve", 0, 1),
    ("attach", 2, 0),
    ("store", 1, 1),
]


def test_a_library_whose_disk_froze_between_any_two_writes_goes_on_to_the_same_end(
    news, ring, tmp_path, fold, monkeypatch
):
    """What kill -9 leaves is what the files hold at that moment: each such moment is copied and gone on from."""
    records = play(news, STORY).records
    expected = rows_of(fold(records))
    copies = []

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

    with Library(tmp_path / "live" / "urza.duckdb", ring) as live:
        live._connection = Watched(live._connection)
        for start in range(0, len(records), 8):
            live.take(records[start : start + 8])

    assert len(copies) > 25
    for copy in copies:
        with Library(copy / "urza.duckdb", None) as library:  # with a ring a copy is not believed
            library.take(records)
            assert rows_of(library) == expected, copy.name


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.soak)])
def test_killed_at_random_statements_it_ends_with_the_same_library(news, ring, tmp_path, fold, kills):
    records = play(news, STORY).records
    expected = rows_of(fold(records))
    path, script = tmp_path / "urza.duckdb", tmp_path / "records"
    script.write_bytes(pickle.dumps(records))
    generator = random.Random(kills)

    def run(left):
        command = [sys.executable, "-c", FOLD, str(path), str(script), str(left)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    codes = [run(generator.randrange(1, 25)).returncode for _ in range(kills)]
    last = run(-1)

    assert signal.SIGKILL.value in {-code for code in codes}
    assert (last.returncode, last.stderr) == (0, "")
    with Library(path, ring) as library:
        assert rows_of(library) == expected


def test_after_an_error_nothing_of_the_batch_counts(news, ring, tmp_path, fold):
    records = play(news, STORY).records

    class Failing:
        def __init__(self, connection):
            self._connection = connection

        def execute(self, statement, *arguments):
            if "INTO offsets" in statement:
                raise OSError("the disk is full")
            return self._connection.execute(statement, *arguments)

        def __getattr__(self, name):
            return getattr(self._connection, name)

    with Library(tmp_path / "urza.duckdb", ring) as library:
        good = library._connection
        library._connection = Failing(good)
        with pytest.raises(OSError, match="full"):
            library.take(records)
        library._connection = good
        assert (rows_of(library), library.next_offsets) == ([], {})
        library.take(records)
        assert rows_of(library) == rows_of(fold(records))


def test_deleted_and_begun_again_it_is_the_same_library(news, ring, tmp_path, content):
    records = play(news, STORY).records
    path = tmp_path / "urza.duckdb"
    contents = []
    for _ in range(2):
        with Library(path, ring) as library:
            for record in records:
                library.take([record])
        with Library(path, ring) as library:
            contents.append(content(library))
        path.unlink()

    assert contents[0] == contents[1]
    assert len(contents[0][0]) == 4


def test_the_archive_gives_the_same_library_with_no_log_running(news, ring, tmp_path, fold, content):
    records = play(news, STORY).records
    with Archive(tmp_path / "archive", ring) as archive:
        archive.append(records)

    with open_history(tmp_path / "archive") as history:
        again = fold(list(stored_records(history)))

    assert content(again) == content(fold(records))


def test_a_cleared_library_begins_anew(news, ring, fold, content):
    records = play(news, STORY).records
    library = fold(records)
    before = content(library)

    library.clear()

    assert content(library) == ([], {})
    library.take(records)
    assert content(library) == before


def test_only_topics_that_are_kept_for_ever_are_folded():
    assert all(topic.retention_ms == FOR_EVER for topic in URZA.sources)
