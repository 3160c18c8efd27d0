"""The table of a version's life is what the catalogue does with it, event by event."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest

from esper.urza.lifecycle import APPROVED, ATTACHED, FOLLOWED, FOLLOWED_UNUSED, MOVES, STORED, WITHDRAWN
from esper.urza.version import State
from projections.library import Library

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
    """The rows that a change is."""
    causes = WHEN.get(what, {STORED, FOLLOWED, FOLLOWED_UNUSED})
    return [row for row in MOVES if (row.source, row.target) == (source, target) and row.when in causes]


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_every_change_is_a_row(make_news, ring, story):
    for source, target, what in walk(make_news, ring, story):
        assert moves_of(source, target, what), (source, target, what)


def test_every_row_happens(make_news, ring):
    seen = [row for story in STORIES.values() for change in walk(make_news, ring, story) for row in moves_of(*change)]

    assert [row for row in MOVES if row not in seen] == []


def test_every_state_is_in_the_table():
    assert {row.target for row in MOVES} == set(get_args(State))
