"""A report that is no experience is refused at the consumer, and kept with the reason."""

from __future__ import annotations

import pytest

from contracts.leyline.v1.leyline_pb2 import FIELD_REPORT_OUTCOME_SUCCESS, FieldReport
from esper.leyline.envelope import new_event
from esper.leyline.ids import text
from projections.experience import EXPERIENCE
from projections.records import StoredRecord


def report(**changes) -> FieldReport:
    body = FieldReport(
        version=1,
        report_id=text(bytes(15) + b"\1"),
        command_id=text(bytes(15) + b"\2"),
        training_run_id="k3f9x2qa",
        outcome=FIELD_REPORT_OUTCOME_SUCCESS,
        metrics={"loss_delta_total": -0.25},
    )
    body.issued_at.FromNanoseconds(1_760_000_000_000_000_000)
    for name, value in changes.items():
        body.ClearField(name) if value is None else setattr(body, name, value)
    return body


def row_of(body: FieldReport):
    event = new_event(body, event_id=bytes(16), run_id="k3f9x2qa", producer="tamiyo", recorded_at_ns=1)
    return EXPERIENCE.rows["field_report"](event, StoredRecord("esper.reports", 0, 7, 1, b"", b"", ()))


@pytest.mark.requirement("R-TAM-51")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"issued_at": None}, "it does not say when it was issued"),
        ({"report_id": "fr-1"}, "report id 'fr-1' is no UUID"),
        ({"command_id": None}, "it names neither a command nor a decision"),
        ({"outcome": None}, "outcome 0 is none"),
        ({"training_run_id": "another1"}, "it is on run 'another1'"),
    ],
)
def test_what_cannot_be_believed_is_refused_with_its_reason(changes, reason):
    table, row = row_of(report(**changes))

    assert (table, row["reason"], row["place"]) == ("refused", reason, 7)


def test_a_report_on_a_command_and_one_on_a_decision_are_experience():
    of_command = row_of(report())
    of_decision = row_of(report(command_id=None, decision_id=text(bytes(15) + b"\3")))

    assert (of_command[0], of_command[1]["loss_delta"]) == ("reported", -0.25)
    assert (of_decision[1]["command_id"], of_decision[1]["decision_id"]) == (None, bytes(15) + b"\3")
