"""The topic of work on a broker: readers agree on a claim, and a new one begins where all before it is over."""

from __future__ import annotations

import threading
import time

from contracts.leyline.v1.event_pb2 import RunReleased, RunRequested, RunTaken
from contracts.topics import PARTITIONS, WORK
from esper.cli.fleet.work import work_event
from esper.leyline.signing import KeyRing
from streams.consumer import ends_of
from streams.work import WorkLog

RUNS = [f"r{number}" for number in range(8)]


def say(log, body, run_id):
    log.publish([work_event(body, run_id, "test")])


def test_two_that_claim_at_once_agree_on_who_has_it_and_a_new_reader_begins_behind_what_is_over(own_log, ring):
    with WorkLog(own_log.address, ring) as one, WorkLog(own_log.address, ring) as two:
        one.publish([work_event(RunRequested(begin="start"), run_id, "test") for run_id in RUNS])
        both = {"a": one, "b": two}
        for log in both.values():
            assert log.wait_for(lambda work: len(work.runs) == len(RUNS), 20)
        claims = [
            threading.Thread(target=say, args=(log, RunTaken(worker=name, attempt=1), run_id))
            for run_id in RUNS
            for name, log in both.items()
        ]
        for claim in claims:
            claim.start()
        for claim in claims:
            claim.join()
        for log in both.values():
            assert log.wait_for(lambda work: all(run.attempt for run in work.runs.values()), 20)
        with one.look() as first, two.look() as second:
            owners = {run_id: run.worker for run_id, run in first.runs.items()}
            assert owners == {run_id: run.worker for run_id, run in second.runs.items()}
        for run_id in RUNS[1:]:
            say(one, RunReleased(worker=owners[run_id], attempt=1, status="completed"), run_id)
        assert one.wait_for(lambda work: sum(run.over for run in work.runs.values()) == len(RUNS) - 1, 20)
        one.commit()
    with WorkLog(own_log.address, ring) as later:
        assert later.caught_up(20)
        with later.look() as work:
            assert work.runs[RUNS[0]].worker == owners[RUNS[0]]
            assert len(work.runs) < len(RUNS)  # those of other partitions are over, and are not read
    assert len(ends_of(own_log.address, (WORK,))) == PARTITIONS


def test_what_nobody_we_know_has_signed_is_no_request(own_log, ring):
    with WorkLog(own_log.address, KeyRing((b"s" * 32,))) as stranger, WorkLog(own_log.address, ring) as ours:
        say(stranger, RunRequested(begin="start"), "theirs")
        say(ours, RunRequested(begin="start"), "ours")
        assert ours.wait_for(lambda work: "ours" in work.runs, 20)
        with ours.look() as work:
            assert list(work.runs) == ["ours"]


def test_a_broker_that_is_killed_is_waited_for(own_log, ring):
    with WorkLog(own_log.address, ring) as log:
        say(log, RunRequested(begin="start"), "before")
        own_log.crash()
        own_log.restart()
        deadline = time.monotonic() + 20
        while not log.wait_for(lambda work: "after" in work.runs, 0.5) and time.monotonic() < deadline:
            say(log, RunRequested(begin="start"), "after")
        with log.look() as work:
            assert set(work.runs) == {"before", "after"}
