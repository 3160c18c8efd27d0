"""Every projection counts every event once: repeated, in another order across topics, killed between any two writes."""

from __future__ import annotations

import pickle
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from esper.leyline.envelope import Event
from projections.records import StoredRecord
from projections.store import Store
from projections.testing import LogOfRecords, story
from tests.unit.projections.keep_log import content

ROOT = Path(__file__).parents[4]


# Folds the records of argv[3] into the projection argv[1] at argv[2] in batches of 9; dies at the argv[4]-th statement.
FOLD = """
import pickle, sys
from pathlib import Path
from projections.registry import PROJECTIONS
from projections.store import Store
from tests.mortal import Mortal

projection, path, records = PROJECTIONS[sys.argv[1]], Path(sys.argv[2]), pickle.loads(Path(sys.argv[3]).read_bytes())
with Store(projection, path, None) as store:
    store._connection = Mortal(store._connection, int(sys.argv[4]))
    for start in range(0, len(records), 9):
        store.take(records[start : start + 9])
"""


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


@pytest.mark.requirement("R-SIM-2")
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
