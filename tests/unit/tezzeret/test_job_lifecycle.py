"""The table of a job's life is what a job does: every row can be walked, and what it does not have changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esper.tezzeret import events
from esper.tezzeret.jobs import MOVES, NEEDS, STAGES, evolve, target, trigger_of

WAYS = {
    "requested": [],
    "started": ["started"],
    "failed": ["started", "failed"],
    "exhausted": ["started", "failed for good"],
    "finished": ["started", "finished"],
    "stored": ["started", "finished", "stored"],
    "catalogued": ["started", "finished", "stored", "catalogued"],
    "parked": ["started", "failed for good", "parked"],
}
"""How a job comes into each stage."""


def told(story, what):
    """The next event of that kind which a forge would send: of the attempt that runs, or the one that comes next."""
    attempt = story.job.attempt
    make = {
        "asked": story.asked_again,
        "started": lambda: story.started(attempt + 1),
        "failed": lambda: story.failed(attempt),
        "failed for good": lambda: story.failed(attempt, will_retry=False),
        "finished": lambda: story.finished(attempt),
        "parked": lambda: story.parked(attempt),
        "stored": lambda: both(story, attempt)[0],
        "catalogued": lambda: both(story, attempt)[1],
    }
    return make[what]()


def both(story, attempt):
    """All that is told of an artifact."""
    return events.published(replace(story.job, stage="finished"), story.artifact(attempt), 1, 6)


EVENTS = ["asked", "started", "failed", "failed for good", "finished", "parked", "stored", "catalogued"]


def in_stage(stories, stage):
    story = stories()
    for what in WAYS[stage]:
        story.fold(told(story, what))
    assert story.job.stage == stage
    return story


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("what", EVENTS)
def test_every_event_in_every_stage_does_what_the_table_says(stories, stage, what):
    story = in_stage(stories, stage)
    before, event = story.job, told(story, what)
    expected = target(stage, trigger_of(event))

    after = evolve(before, event, story.place)
    assert after.stage == (expected or stage)
    if expected is None:
        assert after == before


def test_every_row_is_met_by_some_event_of_these(stories):
    """So the test above has walked the whole table."""
    met = {
        (stage, trigger_of(told(story, what)))
        for stage in STAGES
        for what in EVENTS
        for story in [in_stage(stories, stage)]
    }
    assert {(row.source, row.trigger) for row in MOVES if row.source is not None} <= met


def test_a_pair_of_stage_and_event_leads_to_one_stage():
    pairs = [(row.source, row.trigger) for row in MOVES]
    assert len(set(pairs)) == len(pairs)
    assert {row.target for row in MOVES} == set(STAGES) == set(NEEDS)


def test_what_needs_nothing_is_left_only_when_somebody_asks():
    leaving = {(row.source, row.trigger) for row in MOVES if row.source and NEEDS[row.source] == "nothing"}
    assert leaving == {("parked", "compile_requested")}
