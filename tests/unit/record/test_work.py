"""The fold of the topic of work: one claim counts, a silent worker loses its runs, and a run that kills is given up."""

from __future__ import annotations

import time

import pytest

from contracts.leyline.v1.event_pb2 import RunReleased, RunRequested, RunTaken, TrainerProcess, WorkerSeen
from contracts.topics import WORK
from esper.cli.runs import told_of
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.record.work import Work
from projections import open_history
from projections.archive_writer import Archive
from projections.records import StoredRecord
from projections.run_list import all_work

NOBODY_KNOWS = lambda _process: None  # noqa: E731 - no process is of this machine


class Topic:
    """The topic of work with one partition, folded as it is written."""

    def __init__(self) -> None:
        self.work = Work()
        self.events = []
        self.now_s = 0.0

    def say(self, run_id, body):
        offset = len(self.events)
        event = new_event(
            body,
            event_id=ids.uuid7(offset * 1_000_000, b"0123456789"),
            run_id=run_id,
            producer="test",
            recorded_at_ns=1_000_000_000 + offset,
        )
        self.events.append(event)
        self.work.apply(event, (0, offset), self.now_s)

    def ask(self, run_id, **fields):
        self.say(run_id, RunRequested(begin="start", **fields))

    def take(self, run_id, worker, attempt=1, reason=""):
        self.say(run_id, RunTaken(worker=worker, host=f"host-{worker}", attempt=attempt, reason=reason))

    def release(self, run_id, worker, attempt, status, reason=""):
        self.say(run_id, RunReleased(worker=worker, attempt=attempt, status=status, reason=reason))

    def beat(self, worker, **fields):
        self.say("", WorkerSeen(worker=worker, host=f"host-{worker}", lease_s=30.0, **fields))

    def free(self, worker, lives=NOBODY_KNOWS):
        return [run.run_id for run, _ in self.work.takeable(worker, self.now_s, lives)]


@pytest.fixture
def topic():
    return Topic()


def test_of_two_claims_the_first_counts_and_only_its_worker_ends_the_run(topic):
    topic.ask("r1")
    topic.take("r1", "a")
    topic.take("r1", "b")
    topic.release("r1", "b", 1, "completed")
    held = topic.work.holds("r1", "a", 1)
    topic.release("r1", "a", 1, "completed")

    assert held
    assert topic.work.runs["r1"].status == "completed"
    assert topic.free("b") == []


def test_the_runs_of_a_worker_that_is_silent_are_free_after_its_lease_and_its_word_is_stale_then(topic):
    topic.ask("r1")
    topic.beat("a")
    topic.take("r1", "a")
    topic.now_s = 29.0
    before = topic.free("b")
    topic.now_s = 31.0
    after = topic.free("b")
    topic.take("r1", "b", 2, "silent")
    topic.release("r1", "a", 1, "failed", "woke up late")

    assert (before, after) == ([], ["r1"])
    assert topic.work.holds("r1", "b", 2)
    assert not topic.work.holds("r1", "a", 1)


@pytest.mark.parametrize(
    ("says", "lives"),
    [({"left": True}, None), ({"process": TrainerProcess(boot="here", pid=7)}, False)],
    ids=["it left", "its process is gone"],
)
def test_a_worker_that_is_known_to_be_gone_is_not_waited_for(topic, says, lives):
    topic.ask("r1")
    topic.take("r1", "a")
    topic.beat("a", **says)

    assert topic.free("b", lambda process: lives if process.pid else None) == ["r1"]


def test_a_worker_that_is_known_by_its_claim_alone_has_its_lease(topic):
    topic.ask("r1")
    topic.take("r1", "a")
    before = topic.free("b")
    topic.now_s = 31.0

    assert (before, topic.free("b")) == ([], ["r1"])


def test_a_run_whose_trainers_die_is_given_up_and_one_that_is_given_back_is_not(topic):
    topic.ask("kills", max_attempts=2)
    topic.ask("returns", max_attempts=2)
    for attempt in (1, 2, 3):
        topic.take("kills", "a", attempt)
        topic.release("kills", "a", attempt, "died", "was killed by SIGKILL")
        topic.take("returns", "a", attempt)
        topic.release("returns", "a", attempt, "interrupted", "the worker was stopped")

    assert topic.work.runs["kills"].status == "failed"
    assert topic.work.runs["kills"].reason == "given up after 2 attempts: was killed by SIGKILL"
    assert topic.free("b") == ["returns"]


def test_what_is_withdrawn_is_nobodys_and_higher_priorities_come_first(topic):
    for number in range(4):
        topic.ask(f"r{number}", priority=number % 2)
    topic.say("r1", RunReleased(status="withdrawn", reason="by me"))
    topic.take("r2", "a")
    topic.say("r2", RunReleased(status="withdrawn", reason="by me"))

    assert topic.free("b") == ["r3", "r0"]
    assert not topic.work.holds("r2", "a", 1)


def test_a_run_that_was_begun_goes_before_those_that_were_not(topic):
    for number in range(6):
        topic.ask(f"r{number}", priority=int(number == 5))
    topic.take("r4", "a")
    topic.release("r4", "a", 1, "interrupted", "the worker was stopped")

    assert topic.free("b")[:2] == ["r5", "r4"]


def test_workers_begin_with_different_runs_and_a_new_reader_begins_at_the_first_that_is_not_over(topic):
    for number in range(40):
        topic.ask(f"r{number}")
    for number in range(8):
        topic.beat(f"w{number}")
    topic.take("r0", "w0")
    topic.release("r0", "w0", 1, "completed")
    firsts = {topic.free(f"w{number}")[0] for number in range(8)}

    assert len(firsts) > 3
    assert firsts <= {f"r{number}" for number in range(1, 9)}
    assert topic.work.begins([0], {0: len(topic.events)}) == {0: 1}


def test_the_archive_tells_the_same_as_the_log(topic, tmp_path):
    for number in range(4):
        topic.ask(f"r{number}", batch="b", place=number)
    topic.take("r1", "a")
    topic.take("r2", "b")
    topic.release("r2", "b", 1, "completed")
    topic.take("r1", "c", 2, "silent")
    topic.beat("c")
    with Archive(tmp_path / "archive") as archive:
        archive.append(_stored(offset, event) for offset, event in enumerate(topic.events))
    with open_history(tmp_path / "archive") as history:
        found = all_work(history)

    assert [told_of(run) for run in found] == ["queued", "running on host-c, attempt 2", "completed", "queued"]
    assert found == list(topic.work.runs.values())


def _stored(offset, event):
    raw = event.SerializeToString(deterministic=True)
    return StoredRecord(WORK.name, 0, offset, int(time.time() * 1000), event.run_id.encode(), raw, ())
