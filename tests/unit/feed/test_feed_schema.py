"""A schema says at once what it cannot do, and names what there is instead."""

from __future__ import annotations

import pickle

import pytest

from esper.errors import InvalidInput
from streams.feed import FIELD_REPORTS, STATE_PACKETS, EventFeed, Field, Schema


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ("field_reports", "outcome", "there is no event type 'field_reports'; there is field_report"),
        ("field_report", "outcom", "field_report has no column 'outcom'; there is outcome"),
        ("epoch_completed", "state.validation_los", "there is validation_loss"),
        ("epoch_completed", "state", "has parts; name one: state.version"),
        ("epoch_completed", "state.seed_states.metrics[x]", "is no map of one event"),
        ("epoch_completed", "sites.shape", "is a list in a list"),
        ("field_report", "metrics", "'metrics' of field_report has parts; name one: metrics"),
        ("field_report", "seed_id", "seed_id is text: say which texts count with among="),
        ("field_report", "event_id", "event_id is bytes: say how many with width=N"),
        ("field_report", "log_raw", "is what the archive keeps for itself"),
        ("field_report", "metrics[", "is no path into an event"),
        ("field_report", Field("outcome", among=("a",)), "outcome is no text"),
        ("field_report", Field("outcome", width=4), "is no bytes, so it has no width"),
        ("field_report", Field("outcome", pad=4), "pad is for lists"),
        ("adaptation_command", "rollback_payload", "is JSON, which is no tensor"),
    ],
)
def test_a_field_that_cannot_be_is_refused_with_the_way_out(body, field, said):
    with pytest.raises(InvalidInput) as refused:
        Schema(body, [field])

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("condition", "said"),
    [(("outcome", "=~", 1), "'=~' is no sign; there are =="), (("outcome", "==", "x"), "where outcome == 'x'")],
)
def test_a_condition_that_cannot_be_is_refused(condition, said):
    with pytest.raises(InvalidInput, match=said):
        Schema("field_report", ["outcome"], where=[condition])


def test_two_fields_need_two_names():
    with pytest.raises(InvalidInput, match="two fields of field_report are called 'outcome'"):
        Schema("field_report", ["outcome", Field("observation_window_epochs", "outcome")])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"end": "later"}, "end is 'later'"),
        ({"start": "yesterday"}, "start is 'yesterday'"),
        ({"start": {("esper.runs", 0): 1}}, r"start names \('esper.runs', 0\); this feed reads .* of esper.reports"),
        ({"start": {("esper.reports", 4): 1}}, "this feed reads partitions 0 to 3"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_a_feed_that_cannot_be_is_refused(options, said, tmp_path):
    with pytest.raises(InvalidInput, match=said):
        EventFeed(tmp_path, FIELD_REPORTS, **options)


def test_a_feed_needs_one_schema_per_type(tmp_path):
    for schemas in ((), (FIELD_REPORTS, FIELD_REPORTS)):
        with pytest.raises(InvalidInput, match="one per event type"):
            EventFeed(tmp_path, *schemas)


def test_a_schema_can_be_sent_to_a_worker():
    schema = Schema("field_report", ["outcome"], where=[("seed_id", "in", ["s1", "s2"])])

    sent = pickle.loads(pickle.dumps(schema))

    assert repr(sent) == repr(schema)
    assert sent.where == schema.where
    assert pickle.loads(pickle.dumps(STATE_PACKETS)).fields == STATE_PACKETS.fields
