"""Alerts: when each fires and clears, and that nothing else moves them (R-NIS-5 to 12)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.leyline.envelope import new_event
from esper.nissa.alerts import (
    BY_RULE,
    RULES,
    Watch,
    evolve_absent,
    evolve_alerts,
    evolve_ended,
    evolve_restored,
    evolve_time,
)
from esper.nissa.measure import Sample, measure


def packet_of(body, run_id="run-a"):
    return new_event(body, event_id=bytes(16), run_id=run_id, producer="trainer", recorded_at_ns=0)


def hook(milliseconds, contended=0.0):
    return event_pb2.EpochCompleted(hook_ms_before=milliseconds, hook_contended_ms_before=contended)


def leaks(count):
    return event_pb2.EpochCompleted(seeds=[event_pb2.SeedObservation(seed_id="s1", isolation_violations=count)])


def asked(metric, values, every_s):
    """What is told of a process that is asked so often for a metric; None is no answer, and time goes on."""
    watches, told = {}, []
    for index, value in enumerate(values):
        alerts = []
        if value is not None:
            watches, alert = evolve_alerts(watches, Sample(metric, value, "run-a"), index * every_s)
            alerts = [alert] if alert is not None else []
        watches, lasted = evolve_time(watches, index * every_s)
        told.append([("+" if each.active else "-") + each.rule.name for each in alerts + lasted])
    return told


def fold(bodies, *, watches=None, every_s=60.0, run_id="run-a"):
    """What each body fired (+) or cleared (-), by rule name."""
    watches, told = watches or {}, []
    for index, body in enumerate(bodies):
        said = []
        for sample in measure(packet_of(body, run_id)):
            watches, alert = evolve_alerts(watches, sample, index * every_s)
            if alert is not None:
                said.append(("+" if alert.active else "-") + alert.rule.name)
        told.append(said)
    return watches, told


@pytest.mark.requirement("R-NIS-5")
def test_latency_fires_at_the_third_slow_epoch_in_a_row_and_clears_at_the_first_good_one():
    _, told = fold([hook(25), hook(17), hook(25), hook(25), hook(25), hook(30), hook(18), hook(25)])

    assert told == [[], [], [], [], ["+training_latency_high"], [], ["-training_latency_high"], []]


@pytest.mark.requirement("R-NIS-7")
def test_the_queue_must_be_deep_for_two_minutes_without_a_break():
    told = asked("esper_oona_queue_depth", [5000, 5000, 4000, 5000, 5000, 5000, 5000, 3999], every_s=60.0)

    assert told == [[], [], [], [], [], ["+oona_queue_depth"], [], ["-oona_queue_depth"]]


@pytest.mark.requirement("R-NIS-7", "R-NIS-8")
@pytest.mark.parametrize(
    ("metric", "alert", "looks"),
    [
        ("esper_oona_queue_depth", "oona_queue_depth", 2),
        ("esper_tezzeret_mode_conservative", "tezzeret_conservative_mode", 15),
    ],
)
def test_what_lasts_fires_by_time_alone_and_once(metric, alert, looks):
    """A process that is too busy to answer, or says nothing new, is no better for it."""
    told = asked(metric, [9000.0, *[None] * (looks + 1), 0.0], every_s=60.0)

    assert told == [*[[]] * looks, [f"+{alert}"], [], [f"-{alert}"]]


@pytest.mark.requirement("R-NIS-5")
def test_a_busy_machine_fires_nothing():
    """Ruling 36: what other processes take of the hook's time is shown as itself."""
    _, told = fold([hook(60, contended=50), hook(90, contended=90), hook(25, contended=8), hook(25, contended=400)])

    assert told == [[], [], [], []]


@pytest.mark.requirement("R-NIS-6")
def test_leaks_count_within_five_minutes_only():
    _, slow = fold([leaks(1), leaks(2), leaks(3)], every_s=301.0)
    _, quick = fold([leaks(1), leaks(1), leaks(2), leaks(3)], every_s=60.0)

    assert slow == [[], [], []]
    assert quick == [[], [], [], ["+kasmina_isolation_violation"]]


def test_a_total_that_begins_anew_with_another_life_of_the_seed_counts_from_zero():
    _, told = fold([leaks(2), leaks(1)], every_s=60.0)

    assert told == [[], ["+kasmina_isolation_violation"]]


@pytest.mark.requirement("R-NIS-9")
def test_events_without_the_metric_neither_reset_nor_clear():
    noise = [event_pb2.EpochCompleted(), event_pb2.StepSampled(loss=1.0), leyline_pb2.TelemetryPacket()]
    counting = [hook(25), *noise, hook(25), *noise, hook(25)]
    watches, told = fold(counting)

    assert told[-1] == ["+training_latency_high"]
    _, after = fold(noise, watches=watches)
    assert after == [[]] * len(noise)


def test_runs_are_watched_apart():
    watches, _ = fold([hook(25), hook(25)], run_id="run-a")
    _, told = fold([hook(25)], watches=watches, run_id="run-b")

    assert told == [[]]


@pytest.mark.requirement("R-NIS-12")
def test_an_alert_says_what_it_is_its_value_and_what_to_do():
    for rule in RULES:
        assert rule.description
        assert rule.suggested_action
        assert rule.routes
    watches = {("training_latency_high", "run-a"): Watch(in_a_row=2)}

    _, alert = evolve_alerts(watches, Sample("esper_tolaria_hook_own_seconds", 0.025, "run-a"), 0.0)

    assert alert is not None
    body = alert.body()
    rule = BY_RULE["training_latency_high"]
    assert (body.rule, body.value, body.threshold) == ("training_latency_high", 0.025, 0.018)
    assert (body.description, body.suggested_action) == (rule.description, rule.suggested_action)


def test_an_alert_of_an_earlier_process_does_not_fire_again_and_does_clear():
    watches = evolve_restored({}, "training_latency_high", "run-a", active=True)

    _, told = fold([hook(25), hook(25), hook(25), hook(10)], watches=watches)

    assert told == [[], [], [], ["-training_latency_high"]]


def test_the_end_of_a_run_clears_what_is_active_about_it_and_forgets_the_rest():
    watches, _ = fold([hook(25)] * 3 + [leaks(1)], run_id="run-a")
    watches, _ = fold([hook(25)] * 3, watches=watches, run_id="run-b")

    watches, cleared = evolve_ended(watches, "run-a")

    assert [(alert.rule.name, alert.scope, alert.active) for alert in cleared] == [
        ("training_latency_high", "run-a", False)
    ]
    assert {scope for _, scope in watches} == {"run-b"}


@pytest.mark.requirement("R-NIS-11")
@given(st.lists(st.tuples(st.sampled_from(range(4)), st.floats(0, 10_000)), max_size=60))
def test_whatever_comes_an_alert_fires_and_clears_in_turn(values):
    watches = {}
    last = dict.fromkeys((rule.name for rule in RULES), False)

    for index, (which, value) in enumerate(values):
        sample = Sample(RULES[which].metric, value, "run-a")
        watches, alert = evolve_alerts(watches, sample, index * 30.0)
        if alert is not None:
            assert alert.active is not last[alert.rule.name]
            last[alert.rule.name] = alert.active
        assert watches[(RULES[which].name, "run-a")].active is last[RULES[which].name]


def signal(level):
    return leyline_pb2.EmergencySignal(level=level)


def test_an_emergency_fires_from_conservative_on_and_clears_with_the_next_whole_epoch():
    notice, conservative, halt = (
        leyline_pb2.EMERGENCY_LEVEL_NOTICE,
        leyline_pb2.EMERGENCY_LEVEL_CONSERVATIVE,
        leyline_pb2.EMERGENCY_LEVEL_HALT,
    )

    _, told = fold([signal(notice), signal(conservative), signal(halt), hook(5), hook(5)])

    assert told == [[], ["+emergency_signal"], [], ["-emergency_signal"], []]


def test_what_recurs_fires_at_its_number_and_clears_once_it_has_not_for_a_while():
    """Three late decisions in five minutes; of the fourth, four minutes after them, the window begins anew."""
    watches, told = fold([event_pb2.DecisionTimedOut()] * 4, every_s=80.0)

    assert told == [[], [], ["+tamiyo_timeout"], []]
    for at_s, cleared in ((500.0, []), (540.0, ["tamiyo_timeout"]), (900.0, [])):
        watches, changed = evolve_time(watches, at_s)
        assert [each.rule.name for each in changed if not each.active] == cleared
    _, told = fold([event_pb2.DecisionTimedOut()] * 4, every_s=200.0)
    assert told == [[], [], [], []]


def test_only_signatures_that_do_not_hold_fire_and_of_all_processes_once():
    watches, told = fold([event_pb2.SecurityViolation(reason="nonce_replayed")])
    _, again = fold([event_pb2.SecurityViolation(reason="invalid_signature")], watches=watches)
    watches, _ = fold([event_pb2.SecurityViolation(reason="invalid_signature")], watches=watches)
    _, elsewhere = fold([event_pb2.SecurityViolation(reason="missing_signature")], watches=watches, run_id="run-b")

    assert (told, again, elsewhere) == ([[]], [["+bad_signatures"]], [[]])
    assert evolve_restored({}, "bad_signatures", "log", active=True)["bad_signatures", "log"].active
    assert evolve_restored({}, "of_a_newer_esper", "log", active=True) == {}


def test_a_log_that_is_down_fires_below_its_threshold():
    assert asked("esper_oona_log_up", [1.0, 0.0, 0.0, 1.0], 1.0) == [[], ["+log_down"], [], ["-log_down"]]


def test_what_a_killed_process_left_on_clears_and_a_hung_one_s_stays():
    watches = {}
    for run in ("run-a", "run-b"):
        watches, _ = evolve_alerts(watches, Sample("esper_oona_log_up", 0.0, run), 1.0)
    watches, _ = fold([signal(leyline_pb2.EMERGENCY_LEVEL_HALT)], watches=watches)

    watches, cleared = evolve_absent(watches, {"esper_oona_log_up"}, {"run-b"})

    assert [(each.rule.name, each.scope, each.active) for each in cleared] == [("log_down", "run-a", False)]
    assert {key for key, watch in watches.items() if watch.active} == {
        ("log_down", "run-b"),
        ("emergency_signal", "run-a"),
    }
