"""Who is told of which alert, when, and in which form: a fold of the log."""

from __future__ import annotations

import json

import pytest

from contracts.leyline.v1 import event_pb2
from esper.leyline.envelope import new_event
from esper.nissa import notices
from esper.nissa.notices import TOLD_FOR_NS, Told, due, evolve_told

ALL = frozenset(notices.CHANNELS)
NOW = 1_800_000_000 * 10**9


def event(body, number=1, *, at_ns=NOW, run="run-a"):
    return new_event(body, event_id=number.to_bytes(16, "big"), run_id=run, producer="nissa", recorded_at_ns=at_ns)


def fired(number=1, rule="training_latency_high", **more):
    body = event_pb2.AlertFired(rule=rule, description="slow", value=0.025, suggested_action="look")
    return event(body, number, **more)


def folded(*events):
    told = Told()
    for each in events:
        told = evolve_told(told, each)
    return told


def told_of(told, channels=ALL, now_ns=NOW):
    return [(notice.alert_id[-1], channel) for notice, channel in due(told, channels, now_ns)]


def notified(channel, *, delivered=True, alert=1, number=9):
    body = event_pb2.AlertNotified(alert_id=alert.to_bytes(16, "big"), channel=channel, delivered=delivered)
    return event(body, number)


@pytest.mark.requirement("R-NIS-13")
def test_a_rule_names_who_is_told_and_a_webhook_hears_of_everything():
    assert told_of(folded(fired())) == [(1, "slack"), (1, "pagerduty"), (1, "webhook")]
    assert told_of(folded(fired(rule="tezzeret_conservative_mode"))) == [(1, "email"), (1, "webhook")]
    assert told_of(folded(fired(rule="of-a-newer-esper"))) == [(1, "webhook")]
    assert told_of(folded(fired()), channels=()) == []
    assert told_of(folded(fired(), notified("slack"), notified("webhook"))) == [(1, "pagerduty")]


@pytest.mark.requirement("R-NIS-13")
def test_what_was_given_up_waits_for_a_person_who_may_ask_much_later():
    given_up = folded(fired(), *(notified(channel, delivered=False) for channel in notices.CHANNELS))
    ask = event_pb2.AlertResendRequested(alert_id=(1).to_bytes(16, "big"), channel="slack", by="ada")
    asked = evolve_told(given_up, event(ask, 10))

    assert told_of(given_up) == []
    assert told_of(asked, now_ns=NOW + 100 * TOLD_FOR_NS) == [(1, "slack")]
    assert told_of(evolve_told(asked, notified("slack", number=11))) == []


def test_old_alerts_wake_nobody():
    assert told_of(folded(fired()), now_ns=NOW + TOLD_FOR_NS) == []


@pytest.mark.parametrize(
    ("rule", "run", "covers"),
    [
        ("", "", True),
        ("training_latency_high", "", True),
        ("", "run-a", True),
        ("oona_queue_depth", "", False),
        ("", "b", False),
    ],
)
def test_a_silence_covers_what_it_names_for_as_long_as_it_lasts(rule, run, covers):
    silence = event(event_pb2.AlertsSilenced(rule=rule, of_run=run, until_ns=NOW + 60 * 10**9), 5)
    later = fired(2, at_ns=NOW + 60 * 10**9)
    over = event(event_pb2.AlertsSilenced(rule=rule, of_run=run, until_ns=NOW - 1), 6)

    assert (told_of(folded(silence, fired()), channels={"slack"}) == []) is covers
    assert told_of(folded(silence, later), channels={"slack"}, now_ns=NOW + 61 * 10**9) == [(2, "slack")]
    assert told_of(folded(silence, over, fired()), channels={"slack"}) == [(1, "slack")]


def test_pagerduty_resolves_what_it_triggered_and_every_form_is_json():
    on = notices.notice_of(fired())
    off = notices.notice_of(event(event_pb2.AlertCleared(rule="training_latency_high", value=0.004), 2))

    trigger, resolve = notices.pagerduty(on, "key"), notices.pagerduty(off, "key")

    assert (trigger["event_action"], resolve["event_action"]) == ("trigger", "resolve")
    assert trigger["dedup_key"] == resolve["dedup_key"]
    assert len(trigger["payload"]["summary"]) < 1024
    assert "What to do: look" in notices.slack(on)["text"]
    assert json.loads(json.dumps(notices.webhook(on)))["state"] == "fired"


def test_what_is_remembered_is_bounded():
    told = folded(*(fired(number) for number in range(1, notices.REMEMBERED + 20)))

    assert len(told.notices) == notices.REMEMBERED
