"""A policy that may choose everything: each action is carried out, each decision reported once, all of it again."""

from __future__ import annotations

from collections import Counter

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.leyline import ids
from esper.tamiyo.reports import decision_of


def kinds(lived) -> Counter[str]:
    return Counter(body.actions[body.action].split()[0] for body in lived.log.bodies("decision_made"))


def reported(lived) -> Counter[bytes]:
    """How many reports each decision has, by its id; those on commands count for the decision behind them."""
    behind = {body.command_id: event.event_id for event, body in _decisions(lived) if body.command_id}
    found = [
        ids.from_text(body.decision_id)
        if body.decision_id
        else behind.get(ids.from_text(body.command_id), b"a person's")
        for body in lived.log.bodies("field_report")
    ]
    return Counter(found)


def _decisions(lived):
    return [(event, event.decision_made) for event in lived.log.events if event.HasField("decision_made")]


@pytest.mark.requirement("R-TAM-17", "R-TAM-45")
def test_everything_is_chosen_carried_out_reported_and_done_again(lived):
    seen, applied = Counter(), Counter()
    for seed in range(3):
        lived.train(policy="explore", seed=seed, epochs=24)
        seen += kinds(lived)
        applied += Counter(leyline.CommandType.Name(each.command_type) for each in lived.log.bodies("command_applied"))
        replayed = lived.replay()

        assert replayed.diverged is None, str(replayed.diverged)
        assert replayed.decisions_checked == lived.count("decision_made") == 24
        assert reported(lived) == Counter({event.event_id: 1 for event, _ in _decisions(lived)})
        assert all(body.HasField("issued_at") for body in lived.log.bodies("field_report"))
    assert {"germinate", "adjust", "pause", "breaker_open", "breaker_close", "nothing"} <= set(seen)
    assert {"hold", "advance", "cull"} & set(seen)
    wanted = ("SEED", "OPTIMIZER", "CIRCUIT_BREAKER", "PAUSE")
    assert all(applied[f"COMMAND_TYPE_{name}"] for name in wanted)


@pytest.mark.requirement("R-TAM-13")
def test_a_decision_that_did_not_come_in_time_has_a_neutral_report_and_a_late_one_a_refusal(lived):
    lived.train(policy="random", seed=2, miss=2, epochs=5)
    timed_out = lived.log.bodies("decision_timed_out")
    reports = [body for body in lived.log.bodies("field_report") if body.notes.startswith("timed_out")]

    assert len(timed_out) == len(reports) == 2
    assert {body.outcome for body in reports} == {leyline.FIELD_REPORT_OUTCOME_NEUTRAL}
    urgent = [
        event
        for event in lived.log.events
        if event.HasField("telemetry_packet") and event.priority >= leyline.MESSAGE_PRIORITY_HIGH
    ]
    names = [each.event_id for event in urgent for each in event.telemetry_packet.events]
    assert names.count("tamiyo.timeout_inference") == 2
    told = [body.last_decision for body in lived.log.bodies("epoch_completed") if body.HasField("last_decision")]
    late = {ids.text(decision_of(each)) for each in told if each.outcome == "timed_out"}
    assert {body.decision_id for body in reports} == late
    assert lived.replay().diverged is None


def test_what_is_due_survives_death_and_rollback(lived, other):
    script = {20: lived.go_back("fast")}
    lived.train(script, policy="explore", seed=1)
    dies = next(
        at for at, event in enumerate(lived.log.events) if event.HasField("epoch_completed") and event.epoch == 7
    )
    other.train(script, policy="explore", seed=1, dies_at=dies + 3).resume()

    assert set(reported(lived)) >= {event.event_id for event, _ in _decisions(lived)}
    aborted = [body for body in lived.log.bodies("field_report") if body.notes == "rolled_back" and body.decision_id]
    assert all(body.outcome == leyline.FIELD_REPORT_OUTCOME_ABORTED for body in aborted)
    assert other.digests() == lived.digests()
    assert set(reported(other)) >= {event.event_id for event, _ in _decisions(other)}
