"""The topic table and the envelope agree: every kind of event has exactly one topic, and every topic carries some."""

from __future__ import annotations

from collections import Counter

import pytest

from contracts import topics
from contracts.leyline.v1.event_pb2 import Event

BODIES = [field.name for field in Event.DESCRIPTOR.oneofs_by_name["body"].fields]


@pytest.mark.requirement("R-URZA-23")
def test_every_body_is_on_exactly_one_topic():
    assert Counter(body for topic in topics.TOPICS for body in topic.bodies) == Counter(BODIES)


@pytest.mark.requirement("R-TAM-64", "R-NIS-22")
def test_the_topics_are_the_nine_of_the_architecture_and_that_of_the_fleet():
    kept_days = {topic.name: topic.retention_ms / topics.DAY_MS for topic in topics.TOPICS if topic.retention_ms > 0}

    assert [topic.name for topic in topics.TOPICS] == [
        "esper.runs",
        "esper.commands",
        "esper.blueprints",
        "esper.kernels",
        "esper.reports",
        "esper.policies",
        "esper.telemetry",
        "esper.emergency",
        "esper.deadletter",
        "esper.work",
    ]
    assert kept_days == {
        "esper.kernels": 1,
        "esper.telemetry": 1,
        "esper.emergency": 7,
        "esper.deadletter": 30,
        "esper.work": 30,
    }


def test_only_telemetry_may_be_shed():
    assert [topic.name for topic in topics.TOPICS if topic.sheddable] == ["esper.telemetry"]


@pytest.mark.parametrize("body", BODIES)
def test_a_body_is_found_by_its_name(body):
    assert body in topics.BY_BODY[body].bodies
    assert topics.BY_NAME[topics.BY_BODY[body].name] is topics.BY_BODY[body]
