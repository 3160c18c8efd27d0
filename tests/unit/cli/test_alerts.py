"""`esper alerts` over a history made for it: an alert and all that becomes of it is one row."""

from __future__ import annotations

import json

import pytest

from contracts.leyline.v1 import event_pb2
from esper.cli.app import dispatch
from esper.leyline import ids
from esper.leyline.envelope import new_event
from projections.archive_writer import Archive
from projections.testing import RECORDED_AT_NS, LogOfRecords

FIRST, SECOND = (ids.derived_id(bytes(16), name) for name in ("first", "second"))


def told(alert_id, channel, error=""):
    return event_pb2.AlertNotified(
        alert_id=alert_id,
        rule="archive_lag",
        channel=channel,
        delivered=not error,
        attempts=3 if error else 1,
        error=error,
    )


HAPPENED = (
    (FIRST, event_pb2.AlertFired(rule="archive_lag", value=40.0, threshold=30.0)),
    (b"", told(FIRST, "slack", "hooks: ConnectError")),
    (b"", told(FIRST, "webhook", "hook answers 503")),
    (b"", event_pb2.AlertAcknowledged(alert_id=FIRST, rule="archive_lag", by="ada", note="looking")),
    (b"", event_pb2.AlertAcknowledged(alert_id=FIRST, rule="archive_lag", by="grace", note="the disk is full")),
    (b"", event_pb2.AlertResendRequested(alert_id=FIRST, channel="webhook", by="grace")),
    (b"", told(FIRST, "webhook")),
    (b"", event_pb2.AlertCleared(rule="archive_lag", value=0.0)),
    (SECOND, event_pb2.AlertFired(rule="archive_lag", value=50.0, threshold=30.0)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The data folder of one lag that was told, known and over, and of a second that nobody has heard of."""
    made = tmp_path_factory.mktemp("alerts")
    log = LogOfRecords().place(
        new_event(
            body,
            event_id=own_id or ids.derived_id(bytes(16), str(number)),
            run_id="archive",
            producer="nissa",
            recorded_at_ns=RECORDED_AT_NS + number * 10**9,
        )
        for number, (own_id, body) in enumerate(HAPPENED)
    )
    with Archive(made / "archive") as archive:
        archive.append(log)
    return made


def asked(capsys, folder, *words):
    code = dispatch(["alerts", *words, "--data-dir", str(folder)])
    return code, capsys.readouterr()


@pytest.mark.requirement("R-NIS-13")
def test_a_row_says_whom_an_alert_reached_who_knows_of_it_and_when_it_was_over(capsys, folder):
    code, said = asked(capsys, folder, "list", "--json")
    second, first = json.loads(said.out)

    assert code == 0
    assert (first["id"], first["rule"], first["run_id"]) == (FIRST.hex().upper(), "archive_lag", "archive")
    assert (first["delivered"], first["failed"]) == (["webhook"], ["slack"]), "what was sent again is no failure"
    assert (first["said_by"], first["note"]) == ("grace", "the disk is full"), "the last word counts"
    assert first["fired_at"] < first["cleared_at"] < second["fired_at"]
    assert (second["cleared_at"], second["delivered"], second["said_by"]) == (None, [], None)


def test_a_list_shows_what_is_on_and_what_was_not_taken(capsys, folder):
    _, active = asked(capsys, folder, "list", "--active")
    _, both = asked(capsys, folder, "list")

    assert (active.out.count("archive_lag"), both.out.count("archive_lag")) == (1, 2)
    assert "slack did not take it" in both.out
    assert "grace" in both.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ack", "ffffffffffff", "--by", "ada"), "there is no alert"),
        (("ack", FIRST.hex(), "--by", " "), "say who you are"),
        (("silence", "no_such_rule", "--for", "1h", "--by", "ada"), "there is no alert 'no_such_rule'"),
        (("silence", "archive_lag", "--for", "soon", "--by", "ada"), "is no time"),
        (("resend", SECOND.hex(), "--by", "ada"), "there is nothing to send again"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(capsys, folder, words, said):
    code, printed = asked(capsys, folder, *words)

    assert (code, said in printed.err, printed.err.count("\n")) == (2, True, 1), printed.err
