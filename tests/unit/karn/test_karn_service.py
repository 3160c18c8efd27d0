"""Karn behind its breaker: requirements R-KARN-12 to 16 and 18, with a clock that the test moves."""

from __future__ import annotations

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.karn.approval import Approval, approve
from esper.karn.catalogue import CONSERVATIVE_POOL, find
from esper.karn.selection import Request
from esper.karn.service import FRESH_S, Karn

CLOSED = leyline.CIRCUIT_BREAKER_STATE_CLOSED
OPEN = leyline.CIRCUIT_BREAKER_STATE_OPEN
HALF_OPEN = leyline.CIRCUIT_BREAKER_STATE_HALF_OPEN
ODE = Request("BP039", parameters={"steps": 2})


class Shelf:
    """Where approvals are kept: it can be broken, slow, and counts how often it is read. It is the clock, too."""

    def __init__(self):
        self.now = 0.0
        self.approvals = {}
        self.broken = False
        self.slow_s = 0.0
        self.reads = 0

    def clock(self):
        return self.now

    def read(self):
        self.reads += 1
        self.now += self.slow_s
        if self.broken:
            raise OSError("the projection is away")
        return self.approvals


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def karn(shelf):
    return Karn(shelf.read, monotonic=shelf.clock)


def points(reply):
    return {point.name: point.value for point in reply.telemetry.metrics}


def moves(reply):
    return [(change.from_state, change.to_state) for change in reply.changes]


def break_open(karn, shelf):
    shelf.broken = True
    return [karn.ask(Request(context="c")) for _ in range(3)]


def test_a_good_query_is_answered_and_told_once(karn):
    reply = karn.ask(Request("BP009", parameters={"depth": 2}))
    assert reply.selection.blueprint is find("BP009")
    assert reply.selection.settings == {"depth": 2.0}
    assert (reply.refusal, reply.changes) == ("", [])
    (event,) = reply.telemetry.events
    assert event.event_id == "karn.selection_succeeded"
    assert dict(event.attributes) == {
        "blueprint_id": "BP009",
        "tier": "safe",
        "conservative": "false",
        "latency_ms": "0.000",
    }
    assert points(reply) == {
        "karn.requests.total": 1,
        "karn.requests.failed": 0,
        "karn.breaker.denied": 0,
        "karn.breaker.open_total": 0,
        "karn.breaker.state": CLOSED,
        "karn.selection.safe": 1,
        "karn.selection.experimental": 0,
        "karn.selection.adversarial": 0,
        "karn.selection.latency_ms": 0,
    }


def test_three_failures_in_a_row_open_it_and_every_query_is_still_served(karn, shelf):
    replies = break_open(karn, shelf)
    assert [moves(reply) for reply in replies] == [[], [], [(CLOSED, OPEN)]]
    assert "the projection is away" in replies[2].changes[0].reason
    for reply in (*replies, karn.ask(Request("BP999")), karn.ask(Request("BP043", parameters={"scale": -1}))):
        assert reply.selection.conservative
        assert reply.selection.blueprint.blueprint_id in CONSERVATIVE_POOL
    assert [reply.telemetry.events[0].event_id for reply in replies] == ["karn.selection_failed"] * 3
    last = points(karn.ask(Request(context="c")))
    assert (last["karn.breaker.open_total"], last["karn.breaker.denied"], last["karn.breaker.state"]) == (1, 3, OPEN)
    assert last["karn.requests.failed"] == 3
    assert shelf.reads == 3


def test_one_probe_after_half_a_minute_and_one_success_closes_it(karn, shelf):
    break_open(karn, shelf)
    shelf.now += 29.9
    assert karn.ask(Request(context="c")).selection.conservative
    shelf.now += 0.1
    assert moves(karn.ask(Request(context="c"))) == [(OPEN, HALF_OPEN), (HALF_OPEN, OPEN)]
    shelf.now += 30.0
    shelf.broken = False
    reply = karn.ask(Request(context="c"))
    assert moves(reply) == [(OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]
    assert not reply.selection.conservative
    assert points(reply)["karn.breaker.open_total"] == 2


def test_failures_that_are_not_in_a_row_do_not_open_it(karn, shelf):
    for _ in range(5):
        shelf.broken = True
        assert karn.ask(Request(context="c")).changes == []
        shelf.broken = False
        assert karn.ask(Request(context="c")).changes == []
        shelf.now += FRESH_S


@pytest.mark.parametrize(
    "request_",
    [Request("BP999"), Request("BP009"), Request("BP009", parameters={"depth": 9}), Request("BP043"), ODE],
    ids=["unknown", "incomplete", "out of bounds", "stressor", "not approved"],
)
def test_a_callers_mistake_is_told_and_does_not_count(karn, request_):
    for number in range(1, 6):
        reply = karn.ask(request_)
        assert reply.selection is None
        assert request_.blueprint_id in reply.refusal
        assert reply.changes == []
        (event,) = reply.telemetry.events
        assert (event.event_id, event.attributes["reason"]) == ("karn.selection_failed", reply.refusal)
        assert points(reply)["karn.requests.failed"] == number
    assert karn.ask(Request(context="c")).refusal == ""


def test_a_slow_selection_makes_it_conservative(karn, shelf):
    shelf.slow_s = 0.401
    reply = karn.ask(Request("BP009", parameters={"depth": 1}))
    assert reply.selection.blueprint.blueprint_id == "BP009"
    assert moves(reply) == [(CLOSED, OPEN)]
    assert reply.changes[0].reason == "a selection took 401 ms"
    assert karn.ask(Request("BP033", parameters={"offset_groups": 1})).selection.conservative


def test_an_alarm_makes_it_conservative_for_half_a_minute(karn, shelf):
    assert [change.to_state for change in karn.alarm("memory")] == [OPEN]
    assert karn.alarm("memory") == []
    reply = karn.ask(Request("BP033", parameters={"offset_groups": 1}))
    assert reply.selection.conservative
    assert points(reply)["karn.breaker.open_total"] == 1
    shelf.now += 30.0
    assert not karn.ask(Request("BP033", parameters={"offset_groups": 1})).selection.conservative


def test_an_approval_counts_at_once_and_so_does_its_end(karn):
    assert "not approved" in karn.ask(ODE).refusal
    karn.approved(approve(find("BP039"), by="ada", why="ODEs on spirals"))
    reply = karn.ask(ODE)
    assert reply.selection.blueprint is find("BP039")
    assert points(reply)["karn.selection.experimental"] == 1
    karn.approved(approve(find("BP039"), by="ada", why="it diverged", approved=False))
    assert "not approved" in karn.ask(ODE).refusal


def test_a_drill_needs_the_approval_too(karn, shelf):
    stressor = Request("BP044", parameters={"decay": 0.1})
    shelf.approvals = {"BP044": Approval("ada", "does the rollback fire?")}
    assert "drill only" in karn.ask(stressor).refusal
    reply = karn.ask(stressor, drill=True)
    assert reply.selection.blueprint is find("BP044")
    assert points(reply)["karn.selection.adversarial"] == 1


def test_what_was_read_is_read_again_after_six_hours(karn, shelf):
    for _ in range(3):
        karn.ask(Request(context="c"))
        assert karn.sweep() == []
    assert shelf.reads == 1
    shelf.approvals = {"BP039": Approval("ada", "meanwhile")}
    shelf.now += FRESH_S - 1
    assert karn.sweep() == []
    assert "not approved" in karn.ask(ODE).refusal
    shelf.now += 1
    assert karn.sweep() == []
    assert shelf.reads == 2
    assert karn.ask(ODE).selection.blueprint is find("BP039")


def test_sweeps_that_fail_open_the_breaker(karn, shelf):
    shelf.broken = True
    assert karn.sweep() + karn.sweep() == []
    assert [change.to_state for change in karn.sweep()] == [OPEN]
    reply = karn.ask(Request(context="c"))
    assert reply.selection.conservative
    assert points(reply)["karn.breaker.open_total"] == 1
