"""The sequence diagrams of the documentation name participants, events and topics that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contracts.leyline.v1.event_pb2 import Event
from contracts.topics import TOPICS

ROOT = Path(__file__).parents[3]
DIAGRAM = re.compile(r"```mermaid\n(sequenceDiagram\n.*?)```", re.DOTALL)
ARROW = re.compile(r"^\s*(\w+)\s*-{1,2}>>\s*(\w+): (.*)$", re.MULTILINE)
BODIES = {field.name: field.message_type.name for field in Event.DESCRIPTOR.oneofs_by_name["body"].fields}
FIELDS = {field.name for body in Event.DESCRIPTOR.oneofs_by_name["body"].fields for field in body.message_type.fields}
EVERYTHING = {*BODIES, *BODIES.values(), *FIELDS}
DRAWN = {
    f"{page.relative_to(ROOT)} {number}": text
    for page in sorted(ROOT.joinpath("docs").glob("*.md"))
    for number, text in enumerate(DIAGRAM.findall(page.read_text(encoding="utf-8")))
}


def participants(text: str) -> dict[str, str]:
    return dict(re.findall(r"participant (\w+) as (.*)", text))


def events(told: str) -> set[str]:
    """What looks like a message of the contracts, or like the name of an event's body."""
    return set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", told)) | set(re.findall(r"\b(?:policy|seed|run)_[a-z]+\b", told))


def test_a_decision_and_the_learning_loop_are_drawn():
    assert list(DRAWN) == ["docs/how-it-works.md 0", "docs/learning.md 0"]


@pytest.mark.parametrize("where", DRAWN)
def test_every_arrow_is_between_participants_and_every_participant_has_one(where):
    known = participants(DRAWN[where])
    ends = {name for source, target, _ in ARROW.findall(DRAWN[where]) for name in (source, target)}

    assert ends == set(known)


@pytest.mark.parametrize("where", DRAWN)
def test_every_event_is_one_and_lies_on_the_topic_that_its_arrow_goes_to(where):
    known = participants(DRAWN[where])
    topics = {topic.name: {*topic.bodies, *(BODIES[body] for body in topic.bodies)} for topic in TOPICS}
    told = [(known[target], name) for _, target, words in ARROW.findall(DRAWN[where]) for name in events(words)]

    assert len(told) >= 5
    for target, name in told:
        assert name in topics.get(target, EVERYTHING), (target, name)


def test_an_event_on_another_topic_or_of_another_name_would_be_seen():
    assert events("RunEnded, policy_loved") & EVERYTHING == set()
    assert "AdaptationCommand" in EVERYTHING
