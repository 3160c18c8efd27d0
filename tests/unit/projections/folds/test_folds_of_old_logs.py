"""Logs of older schemas are kept, and give the tables that they gave then."""

from __future__ import annotations

import json

import pytest

from esper.leyline import envelope
from esper.leyline.envelope import Event
from projections.testing import LogOfRecords
from tests.unit.projections import keep_log

KEPT = sorted(keep_log.KEPT.glob("*.jsonl"))


@pytest.mark.parametrize("log", KEPT, ids=[path.stem for path in KEPT])
def test_a_log_of_an_older_schema_gives_the_tables_that_it_gave_then(log):
    kept = [keep_log.from_line(line) for line in log.read_text(encoding="utf-8").splitlines()]
    then = json.loads(log.with_suffix(".tables.json").read_text(encoding="utf-8"))
    now = keep_log.tables(kept)

    assert now.keys() <= then.keys()
    for name, views in then.items():
        if name not in now:  # a projection that there is no more
            continue
        for view, rows in views.items():
            columns = rows[0] if rows else {}
            assert [{column: row[column] for column in columns} for row in now[name][view]] == rows, (name, view)


def test_today_is_kept():
    """A schema version that rises leaves its log behind: `keep_log.py` writes it."""
    assert f"v{envelope.SCHEMA_VERSION}" in [path.stem for path in KEPT]


def test_an_upcaster_gives_an_old_log_the_tables_of_a_new_one(monkeypatch, records, expected):
    """A later schema says reports' loss in millinats and calls a blueprint by a longer name; both logs fold alike."""
    later = [Event.FromString(record.value or b"") for record in records]

    def in_millinats(event):
        event.field_report.metrics["loss_delta_total"] *= 1_000

    def longer(event):
        event.artifact_stored.artifact_ref = f"ref/{event.artifact_stored.artifact_ref}"

    for event in later:
        event.schema_version = 2
        if event.HasField("field_report"):
            in_millinats(event)
        if event.HasField("artifact_stored"):
            longer(event)
    with pytest.raises(AssertionError):
        assert keep_log.tables(LogOfRecords().place(later)) == expected  # of a version that this one does not read
    monkeypatch.setattr(envelope, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(
        "esper.leyline.envelope.UPCASTERS", {("field_report", 1): in_millinats, ("artifact_stored", 1): longer}
    )
    old, new = keep_log.tables(records), keep_log.tables(LogOfRecords().place(later))

    assert old == new
    assert {row["loss_delta"] for row in old["experience"]["experience"]} == {None, -125}
    assert all(row["artifact_ref"].startswith("ref/") for row in old["urza"]["versions"])
