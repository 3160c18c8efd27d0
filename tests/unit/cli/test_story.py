"""The same story told in lines, as a view, as a chain of causes, as JSON and as a summary."""

from __future__ import annotations

import json

import pytest

from contracts.leyline.v1 import event_pb2 as e
from contracts.leyline.v1 import leyline_pb2 as l
from esper.cli.events import event_json, headline, seed_of
from esper.cli.run_view import RunView
from esper.cli.summary import Cost, Summary
from esper.cli.why import chain_of, walk
from esper.leyline.envelope import body_name


def test_every_event_has_a_headline_of_one_line(story):
    lines = [headline(event) for event in story]
    assert lines[2] == "germinate s1 residual_block (BP009): the loss stalls"
    assert lines[3] == "germinate s1 residual_block (BP009) (from tamiyo)"
    assert lines[6] == "s1 G1 gradient health failed: no gradient [norm 0 (limit 0.01)]"
    assert lines[7] == "s1 GERMINATED -> CULLED, residual_block (BP009): G1 failed"
    assert all(line and "\n" not in line for line in lines)


def test_events_know_their_seed(story):
    assert [seed_of(event) for event in story] == [
        *("", "", "s1", "s1", "s1", "s1", "s1", "s1", "s1"),
        *("", "", "s1", ""),
    ]


def test_a_gate_shows_the_direction_of_each_limit(tell):
    """The directions are those of the gate's own table; a figure that it does not know shows its limit alone."""
    figures = [("alpha", 1.0, 0.95), ("output_ratio", 0.69, 10.0), ("loss_drift_stderr", 0.25, None), ("new", 2.0, 3.0)]
    measurements = [e.Measurement(name=name, value=value, limit=limit) for name, value, limit in figures]
    gate = tell(
        e.GateEvaluated(seed_id="s1", gate=l.SEED_LIFECYCLE_GATE_G2_STABILITY, passed=True, measurements=measurements)
    )

    assert headline(gate) == (
        "s1 G2 stability passed "
        "[alpha 1 \u2265 0.95, output_ratio 0.69 \u2264 10, loss_drift_stderr 0.25, new 2 (limit 3)]"
    )


def test_view_ends_where_the_run_ended(story):
    view = RunView.of("k3f9x2qa", story)
    assert (view.epoch, view.epochs_total, [each.text for each in view.figures]) == (2, 2, ["80.00 %"])
    assert (view.seeds["s1"].stage, view.seeds["s2"].stage) == ("EMBARGOED", "DORMANT")
    assert [line for _, line in view.decisions] == [
        "germinate s1 residual_block (BP009): the loss stalls",
        "nothing: the run is over",
    ]
    (life,) = view.lives
    assert (life.blueprint_id, life.parameters, life.stage, life.reason) == ("BP009", 42, "CULLED", "G1 failed")
    assert (life.from_epoch, life.to_epoch) == (1, 2)


def test_view_takes_every_event_once(story):
    once, twice = RunView("k3f9x2qa"), RunView("k3f9x2qa")
    assert all(once.apply(event) for event in story)
    taken = [twice.apply(event) for event in [*story, *story]]
    assert taken == [True] * len(story) + [False] * len(story)
    assert twice == once


def test_view_is_complete_only_with_the_report_that_is_due(story):
    report = story[11]
    view = RunView.of("k3f9x2qa", [event for event in story if event is not report])
    assert view.finished is not None
    assert not view.complete
    view.apply(report)
    assert view.complete


def test_chain_goes_from_the_packet_to_the_report(story):
    chain = [(link.depth, body_name(link.event)) for link in walk(chain_of(story, "s1"))]
    assert chain == [
        (0, "epoch_completed"),
        (1, "decision_made"),
        (2, "adaptation_command"),
        (3, "command_applied"),
        (4, "seed_transitioned"),
        (4, "gate_evaluated"),
        (4, "seed_transitioned"),
        (4, "seed_transitioned"),
        (3, "field_report"),
    ]
    assert chain_of(story, "s2") == []


def test_chain_survives_duplicates_and_a_missing_cause(story):
    without_packet = [event for event in story if event is not story[1]]
    (root,) = chain_of([*without_packet, *without_packet], "s1")
    assert body_name(root.event) == "decision_made"
    assert len(list(walk([root]))) == 8


def test_json_of_an_event_names_its_enums_and_ids(story):
    told = json.loads(json.dumps(event_json(story[7])))
    assert told["type"] == "seed_transitioned"
    assert told["event_id"] == "00000000-0000-0000-0000-000000000008"
    assert told["body"]["to_stage"] == "SEED_LIFECYCLE_STAGE_CULLED"
    assert told["body"]["reason"] == "G1 failed"


def _summary(story, control) -> Summary:
    grown = RunView.of("k3f9x2qa", story)
    return Summary(
        grown,
        control,
        seed=3,
        hook_ms={"p50": 3.1234, "p99": 9.8765},
        cost=Cost(2.34567, 0.5, 1.87654, 9.8765, 41.23456),
        data_dir="./d",
        flops={"training": 30.0, "side_pass": 4.0, "probe": 3.0, "evidence": 2.0},
    )


def test_summary_object_has_exactly_the_promised_fields(story):
    assert _summary(story, RunView.of("c", story)).to_json() == {
        "run_id": "k3f9x2qa",
        "task": "digits",
        "seed": 3,
        "epochs": 2,
        "metric": {"name": "accuracy", "unit": "%", "direction": "higher is better"},
        "test_metric": 75.0,
        "probe_metric": pytest.approx(80.0),
        "control_test_metric": 75.0,
        "static_test_metric": None,
        "metrics": [{"name": "accuracy", "unit": "%", "direction": "higher is better", "value": 75.0, "stderr": None}],
        "val_accuracy": 0.75,
        "control_val_accuracy": 0.75,
        "params_host": 100,
        "params_final": 100,
        "flops": {"training": 30.0, "side_pass": 4.0, "probe": 3.0, "evidence": 2.0},
        "control_flops": 0.0,
        "static_run_id": None,
        "static_val_accuracy": None,
        "static_flops": None,
        "test_loss": 0.55,
        "static_test_loss": None,
        "growth": None,
        "unproven": [],
        "val_accuracy_without": None,
        "test_loss_without": None,
        "seeds": {"germinated": 1, "fossilized": 0, "culled": 1},
        "events": 13,
        "records_lost": 0,
        "records_to_archive": 0,
        "hook_ms": {"p50": 3.123, "p99": 9.877},
        "first_step_s": 2.346,
        "prompt_s": 0.5,
        "profile": None,
        "torch_import_s": 1.877,
        "cpu_s": 9.877,
        "wall_s": 41.235,
    }
    assert _summary(story, None).to_json()["control_val_accuracy"] is None


def test_summary_says_what_became_of_each_seed(story):
    text = _summary(story, RunView.of("c", story)).text()
    assert (
        "s1 at layer1 grew residual_block (BP009) with 42 parameters in epoch 1 and is CULLED since epoch 2: G1 failed"
        in text
    )
    assert "s2 at layer2 never germinated" in text
    assert "test accuracy (%) (+0.00 points)" in text
    assert "p50 3.1 ms, p99 9.9 ms" in text
    assert "growth did not pay: nothing became part of the network for good, and that took" in text
    assert "esper why k3f9x2qa s1" in text
    assert "\x1b" not in text


def test_summary_tells_a_slot_that_opened_and_a_seed_in_doubt(story, tell):
    opened, end = tell(e.SeedAbsorbed(seed_id="s1", site="layer1", opened="s3"), epoch=2), story[-1]
    opened.sequence, end.sequence = end.sequence, end.sequence + 1
    end.run_finished.unproven.append("s2")
    end.run_finished.test_loss_without = 2.0
    end.run_finished.metrics_without.add(name="mae", unit="mm", lower_is_better=True, value=0.25)
    text = _summary([*story[:-1], opened, end], None).text()

    assert "s3 at layer1, which s1 opened in epoch 2, never germinated" in text
    assert (
        "s2 is in the network and has not proven anything, because the run ended before; "
        "without, on the test set: mae 0.2500 mm, loss 2.0000"
    ) in text


def test_summary_of_a_run_whose_control_failed_shows_one_column(story):
    text = _summary(story, RunView.of("c", story[:-1])).text()
    assert "points" not in text
    assert "test accuracy" in text
