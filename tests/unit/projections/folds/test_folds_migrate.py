"""Files of an older, a newer or no Esper: migrated, refused, made anew."""

from __future__ import annotations

import sys

import duckdb
import pytest

from esper.errors import InvalidInput
from projections.projection import Projection, Script
from projections.registry import PROJECTIONS, file_of, seen
from projections.store import Store
from tests.unit.projections.keep_log import content


class Changed(Projection):
    """Experience as an Esper with other migrations has them."""

    def migrations(self):
        return [*PROJECTIONS["experience"].migrations(), *MORE]


MORE: list[Script] = []


@pytest.fixture
def later(monkeypatch):
    """The projection `experience` of a later Esper, with a migration more."""

    def make(text: str) -> Projection:
        monkeypatch.setattr(sys.modules[__name__], "MORE", [Script("0004_more", text)])
        today = PROJECTIONS["experience"]
        return Changed(**{name: getattr(today, name) for name in Projection.__slots__})

    return make


def migrations_of(store: Store) -> list[str]:
    return [name for (name,) in store.cursor().execute("SELECT name FROM migrations ORDER BY number").fetchall()]


def test_an_older_file_is_migrated_and_keeps_its_rows(records, expected, tmp_path, later):
    path = tmp_path / "it.duckdb"
    with Store(PROJECTIONS["experience"], path, None) as store:
        store.take(records)
    with Store(later("ALTER TABLE reported ADD COLUMN weight DOUBLE DEFAULT 0.5"), path, None) as store:
        assert (store.migrated, migrations_of(store)) == (
            ["0004_more"],
            ["0001_events", "0002_verdicts", "0003_decision_reports", "0004_more"],
        )
        assert store.next_offsets != {}
        assert store.cursor().execute("SELECT DISTINCT weight FROM reported").fetchall() == [(0.5,)]
        assert content(store) == expected["experience"]


def test_a_migration_that_needs_old_events_folds_them_again(records, expected, tmp_path, later):
    path = tmp_path / "it.duckdb"
    with Store(PROJECTIONS["experience"], path, None) as store:
        store.take(records)
    with Store(later("-- rebuild: weights come from the events\nSELECT 1"), path, None) as store:
        assert (store.migrated, store.next_offsets) == (
            ["0001_events", "0002_verdicts", "0003_decision_reports", "0004_more"],
            {},
        )
        store.take(records)
        assert content(store) == expected["experience"]


def test_a_newer_file_is_refused_and_untouched(records, tmp_path, later):
    path = file_of(tmp_path, PROJECTIONS["experience"])
    with Store(later("SELECT 1"), path, None) as store:
        store.take(records)
    before = path.read_bytes()

    with pytest.raises(InvalidInput, match=r"newer Esper.*0004_more.*esper projections rebuild experience"):
        Store(PROJECTIONS["experience"], path, None)
    assert path.read_bytes() == before
    assert seen(PROJECTIONS["experience"], tmp_path).state == "newer"


@pytest.mark.parametrize("damage", ["garbage", "other tables", "another text"])
def test_a_file_that_cannot_be_used_is_made_anew(records, expected, tmp_path, damage):
    path = tmp_path / "it.duckdb"
    if damage == "garbage":
        path.write_bytes(b"this is no database" * 1_000)
    elif damage == "other tables":
        with duckdb.connect(path) as connection:
            connection.execute("CREATE TABLE reported (event_id BLOB); CREATE VIEW old AS FROM reported")
    else:
        with Store(PROJECTIONS["experience"], path, None) as store:
            store.take(records)
            store._connection.execute("UPDATE migrations SET digest = 'of another text'")

    with Store(PROJECTIONS["experience"], path, None) as store:
        assert store.next_offsets == {}
        store.take(records)
        assert content(store) == expected["experience"]


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
