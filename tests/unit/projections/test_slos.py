"""The view `slos`: what of each error budget is spent, by histories made for it; and `esper slo` over one."""

from __future__ import annotations

import itertools
import json

import pytest

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.cli.app import dispatch
from esper.leyline import ids
from esper.leyline.envelope import new_event
from projections import open_history
from projections.alert_queries import slos
from projections.archive_writer import Archive
from projections.testing import RECORDED_AT_NS, LogOfRecords

HOUR_NS = 3_600 * 10**9


def point(name, value, **attributes):
    return leyline_pb2.MetricPoint(name=name, value=value, attributes=attributes)


def packet(*points):
    return leyline_pb2.TelemetryPacket(source_subsystem="test", metrics=points)


def decision(number):
    return event_pb2.DecisionMade(packet_id=number.to_bytes(16))


def rows(folder, told):
    """The view's rows by name; `told` are bodies, each with how many hours it is old."""
    facts = itertools.count(1)
    events = [
        new_event(
            body,
            event_id=ids.derived_id(bytes(16), str(number)),
            run_id="run-a",
            producer="trainer",
            recorded_at_ns=RECORDED_AT_NS - round(hours * HOUR_NS),
            sequence=next(facts) if type(body).__name__ in {"RunStarted", "DecisionTimedOut"} else 0,
            incarnation=1,
            timeline=1,
        )
        for number, (hours, body) in enumerate(
            [(900, event_pb2.RunStarted()), *sorted(told, key=lambda each: -each[0])]
        )
    ]
    with Archive(folder / "archive") as archive:
        archive.append(LogOfRecords().place(events))
    with open_history(folder / "archive") as history:
        return {row["slo"]: row for row in slos(history)}


@pytest.mark.requirement("R-NIS-14")
def test_what_is_late_is_spent_of_the_budget_and_burns_where_it_was_today(tmp_path, capsys):
    """Of 2,000 decisions two may be late in 30 days. One was ten days ago, and one today: half of the budget."""
    told = [(2 + n / 10, decision(n)) for n in range(2_000)]
    told += [(240.0, event_pb2.DecisionTimedOut(packet_id=(1_999).to_bytes(16), waited_ms=2_000))]
    told += [(0.5, event_pb2.DecisionTimedOut(packet_id=(3).to_bytes(16), waited_ms=2_000))]
    told += [(0.0, decision(2_001)), (800.0, event_pb2.DecisionTimedOut(packet_id=b"\xff" * 16))]

    found = rows(tmp_path, told)["decisions_in_time"]

    assert (found["asked"], found["bad"], found["burning"]) == (2_001, 2, True)
    assert found["spent"] == pytest.approx(2 / 2.001)
    assert found["budget_left"] == pytest.approx(1 - 2 / 2.001)
    assert found["spent_1d"] == pytest.approx(1 / 2.001)
    assert found["burn_1h"] == pytest.approx(500.0)
    assert dispatch(["slo", "--json", "--data-dir", str(tmp_path)]) == 1
    assert {each["slo"] for each in json.loads(capsys.readouterr().out)} >= {"decisions_in_time", "telemetry_kept"}


@pytest.mark.requirement("R-NIS-15", "R-NIS-26")
def test_of_an_availability_more_is_better_of_a_latency_less_and_half_a_pair_is_nothing(tmp_path):
    told = [
        (3.0, packet(point("slo.up_actual", 0.9, kind="availability"), point("slo.up_objective", 0.99))),
        (2.0, packet(point("slo.up_actual", 0.999, kind="availability"), point("slo.up_objective", 0.99))),
        (2.0, packet(point("slo.answer_actual", 20.0), point("slo.answer_objective", 25.0))),
        (1.0, packet(point("slo.answer_actual", 30.0), point("slo.answer_objective", 25.0))),
        (1.0, packet(point("slo.half_actual", 30.0), point("sloth_objective", 1.0))),
        (0.0, packet(point("slo.half_objective", 30.0))),
    ]

    found = rows(tmp_path, told)

    assert {name: (row["kind"], row["asked"], row["bad"]) for name, row in found.items() if row["asked"]} == {
        "up": ("availability", 2, 1),
        "answer": ("latency", 2, 1),
        "telemetry_kept": ("error_rate", 6, 0),
    }


def test_without_traffic_the_whole_budget_is_left(tmp_path):
    found = rows(tmp_path, [(0.0, event_pb2.TelemetryShed(count=1, total=1))])

    assert found["rollbacks_in_time"]["budget_left"] == 1.0
    assert (found["telemetry_kept"]["budget_left"], found["telemetry_kept"]["burning"]) == (0.0, False)
