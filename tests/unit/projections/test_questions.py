"""The twenty standard questions, answered on a small history and compared with plain Python over its events."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from contracts.leyline.v1 import event_pb2
from esper.kasmina.lifecycle import name as stage_name
from projections import questions
from projections.generated import history
from projections.history import History


@pytest.fixture(scope="module")
def events() -> list[event_pb2.Event]:
    """The events of the small history."""
    return list(history(5_500))


@pytest.fixture
def parameters(events) -> dict[str, object]:
    """One run, one step of it, and one event that caused others."""
    command = next(event for event in events if event.WhichOneof("body") == "adaptation_command")
    return {"run": events[0].run_id, "step": 2_000, "event": command.event_id}


def answer(opened: History, name: str, **parameters) -> list[tuple]:
    return questions.ask(opened, name, **parameters).fetchall()


def bodies(events, name: str) -> list:
    return [event for event in events if event.WhichOneof("body") == name]


def test_there_are_twenty():
    assert len(questions.names()) == 20


@pytest.mark.parametrize("name", questions.names())
def test_every_question_has_an_answer(name, opened, parameters):
    assert questions.in_words(name).endswith(("?", "."))
    assert answer(opened, name, **parameters)


def test_events_by_type(opened, events):
    counted = Counter(event.WhichOneof("body") for event in events)

    assert dict(answer(opened, "01_events_by_type")) == counted


def test_swimlane(opened, events, parameters):
    moves = [event for event in bodies(events, "seed_transitioned") if event.run_id == parameters["run"]]
    expected = Counter((move.seed_transitioned.seed_id, move.global_step) for move in moves)

    assert Counter(row[:2] for row in answer(opened, "02_swimlane_of_a_run", **parameters)) == expected


def test_chain(opened, events, parameters):
    """Of all runs in one row, of one run one row a decision."""
    whole = answer(opened, "03_from_decision_to_move")
    one = answer(opened, "04_chain_of_a_run", **parameters)
    decisions, moves = bodies(events, "decision_made"), bodies(events, "seed_transitioned")

    assert whole == [("heuristic", len(decisions), len(decisions), len(bodies(events, "command_applied")), len(moves))]
    assert len(one) == sum(event.run_id == parameters["run"] for event in decisions)


def test_seeds_at_a_step(opened, events, parameters):
    stages = {}
    for event in bodies(events, "seed_transitioned"):
        if event.run_id == parameters["run"] and event.global_step <= parameters["step"]:
            stages[event.seed_transitioned.seed_id] = stage_name(event.seed_transitioned.to_stage)

    assert dict(answer(opened, "05_seeds_at_a_step", **parameters)) == stages


def test_dwell_time(opened, events):
    steps = {}
    for event in bodies(events, "seed_transitioned"):
        steps.setdefault((event.run_id, event.seed_transitioned.seed_id), []).append(event)
    stays = Counter()
    for moves in steps.values():
        for before, after in pairwise(moves):
            stays[stage_name(after.seed_transitioned.from_stage)] += after.global_step - before.global_step

    answered = answer(opened, "09_dwell_time")
    assert {stage: round(mean * count) for stage, mean, count in answered} == stays


def test_caused_by(opened, events, parameters):
    caused = [event.event_id for event in events if event.causation_id == parameters["event"]]

    assert len(answer(opened, "11_caused_by", **parameters)) == len(caused) > 0


def test_loss_curve(opened, events, parameters):
    losses = [
        (event.epoch, pytest.approx(event.epoch_completed.state.validation_loss))
        for event in bodies(events, "epoch_completed")
        if event.run_id == parameters["run"]
    ]

    rows = answer(opened, "17_loss_curve", **parameters)
    assert [(epoch, loss) for epoch, _, loss, _ in rows] == losses
