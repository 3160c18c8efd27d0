"""The diagram of a version's states in docs/blueprints.md is what the catalogue does, event by event."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from esper.urza.version import KEPT_DAYS, State
from projections.library import Library

DIAGRAM = (Path(__file__).parents[3] / "docs/blueprints.md").read_text(encoding="utf-8").split('(Urza)" as version')[1]
ROWS = re.findall(r"^ +(\S+) --> (\S+): (.*)$", DIAGRAM.split("}")[0], re.MULTILINE)
MOVES = [row for row in ROWS if row[1] != "archived"]

ATTACHED = "a run attaches it after all"
WITHDRAWN = "the blueprint's approval is withdrawn"
APPROVED = "the blueprint is approved again"
FOLLOWED = {
    "a newer one of its line is stored, and a run had attached it",
    "a newer one of its line is stored, and no run had attached it",
}

STORIES = {
    "followed unused, attached after all, withdrawn and approved again": [
        ("store", 1),
        ("store", 2),
        ("attach", 1),
        ("withdraw", 0),
        ("approve", 0),
    ],
    "attached and followed": [("store", 1), ("attach", 1), ("store", 2), ("withdraw", 0), ("approve", 0)],
    "withdrawn while deprecated": [("store", 1), ("store", 2), ("withdraw", 0), ("approve", 0)],
    "attached twice changes nothing": [("store", 1), ("attach", 1), ("attach", 1)],
}
WHEN = {"attach": {ATTACHED}, "withdraw": {WITHDRAWN}, "approve": {APPROVED}}


def walk(make_news, ring, story):
    """What each step of a story did to the states of versions: (before, after, the step)."""
    news = make_news()
    news.registered("BP036", approval_required=True)
    news.approved("BP036")
    changes = []
    with Library(None, ring) as library:
        for step in [("", 0), *story]:
            tell(news, *step)
            library.take(news.records)
            rows = library._connection.execute("SELECT version, state FROM library").fetchall()
            changes.append((step[0], dict(rows)))
    return [
        (before.get(version), after[version], what)
        for (_, before), (what, after) in pairwise(changes)
        for version in after
        if before.get(version) != after[version]
    ]


def tell(news, what, version):
    match what:
        case "store":
            news.stored(version, "BP036")
        case "attach":
            news.attached(f"sha256:BP036-{version}", "BP036")
        case "withdraw" | "approve":
            news.approved("BP036", approved=what == "approve")


def moves_of(source, target, what):
    """The rows of the diagram that a change is; a version begins as active."""
    causes = WHEN.get(what, FOLLOWED)
    return [row for row in MOVES if row[:2] == (source, target) and row[2] in causes]


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_every_change_is_a_row(make_news, ring, story):
    for source, target, what in walk(make_news, ring, story):
        if source is None:
            assert (target, what) == ("active", "store")
            continue
        assert moves_of(source, target, what), (source, target, what)


def test_every_row_happens(make_news, ring):
    seen = [row for story in STORIES.values() for change in walk(make_news, ring, story) for row in moves_of(*change)]

    assert [row for row in MOVES if row not in seen] == []


def test_every_state_is_in_the_diagram():
    assert {"active", *(target for _, target, _ in MOVES)} == set(get_args(State))


def test_the_times_until_a_version_is_archived_are_those_of_the_code():
    drawn = {source: when for source, target, when in ROWS if target == "archived"}

    assert drawn == {state: f"after {days} days" for state, days in KEPT_DAYS.items() if days is not None}
