"""`artifacts` and `approvals` ask the archive what the catalogue's own file knows: both are folds of one log."""

from __future__ import annotations

import json

import pytest

from projections import open_history
from projections.archive_writer import Archive

SHARED = "blueprint_id, version, state, form, shape_kind, shape, bytes, attachments, artifact_ref, checksum, job_id"


@pytest.fixture
def ask(tmp_path):
    """Rows of a query over the archive of these records."""

    def rows(records, query):
        with Archive(tmp_path) as archive:
            archive.append(records)
        with open_history(tmp_path) as history:
            return history.execute(query).fetchall()

    return rows


def tell(news):
    """Two versions of one line, one of another, an attachment told twice, and an approval that is withdrawn."""
    news.registered()
    first = news.stored(1)
    attached = news.attached(first)
    news.say(None, event=attached)
    news.stored(2)
    news.stored(3, width=8)
    news.registered("BP036", approval_required=True)
    news.approved("BP036")
    news.stored(1, "BP036")
    news.approved("BP036", approved=False)
    return news.records


def test_artifacts_are_what_the_library_has(news, fold, ask):
    records = tell(news)
    library = fold(records)._connection.execute(f"SELECT {SHARED} FROM library ORDER BY ALL").fetchall()

    assert ask(records, f"SELECT {SHARED} FROM artifacts ORDER BY ALL") == library
    assert [(row[0], row[1], row[2], row[7]) for row in library] == [
        ("BP009", 1, "validated", 1),
        ("BP009", 2, "active", 0),
        ("BP009", 3, "active", 0),
        ("BP036", 1, "rejected", 0),
    ]


def test_times_and_settings_of_an_artifact(news, ask):
    news.stored(1, depth=2.0)
    query = "SELECT parameters, compile_ms, eager_us, prewarm_p50_ms, stored_at FROM artifacts"

    ((parameters, compile_ms, eager_us, p50_ms, stored_at),) = ask(news.records, query)
    assert (json.loads(parameters), compile_ms, eager_us, p50_ms) == ({"depth": 2.0}, 12.0, None, 0.5)
    assert stored_at.timestamp() == pytest.approx(1.002, abs=1e-6)


def test_the_last_word_on_a_blueprint_holds(news, ask):
    news.approved("BP036")
    again = news.approved("BP036", approved=False)
    news.say(None, blueprint="BP036", event=again)

    found = ask(
        news.records, "SELECT approved, said_by, holds FROM approvals WHERE blueprint_id = 'BP036' ORDER BY log_offset"
    )
    assert found == [(True, "ada", False), (False, "ada", True)]
