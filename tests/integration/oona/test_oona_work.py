"""The topic of work on a broker: readers agree on a claim, and a new one begins where all before it is over."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

from contracts.leyline.v1.event_pb2 import RunReleased, RunRequested, RunTaken, WorkerSeen
from contracts.topics import PARTITIONS, WORK
from esper.cli.fleet.work import work_event
from esper.leyline.signing import KeyRing
from streams import work as work_module
from streams.consumer import ends_of
from streams.records import partition_of
from streams.work import WorkLog
from tests.integration.oona.test_oona_topics import add_partitions

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


def elsewhere(name, count):
    """An id of a kind that lies among seven partitions on one that is new, and among four on an old one."""
    return next(each for each in (f"{name}{n}" for n in itertools.count()) if partition_of(each.encode(), count) >= 4)


def test_where_somebody_adds_partitions_claims_follow_their_requests_and_who_was_there_hears_of_the_new(
    own_log, ring, monkeypatch
):
    """One read the old ones alone: it heard neither of new requests nor of new workers, and took their runs over."""
    monkeypatch.setattr(work_module, "ADDED_S", 0.05)
    run_id, later_run, worker = elsewhere("asked-", 7), elsewhere("later-", 7), elsewhere("worker-", 7)
    with WorkLog(own_log.address, ring) as old:
        say(old, RunRequested(begin="start"), run_id)
        assert old.wait_for(lambda work: run_id in work.runs, 20)
        asyncio.run(add_partitions(own_log.address, 7))
        with WorkLog(own_log.address, ring) as new:
            assert new.wait_for(lambda work: run_id in work.runs, 20)
            say(new, RunTaken(worker="new", attempt=1), run_id)
            say(old, RunTaken(worker="old", attempt=1), run_id)
            say(new, RunRequested(begin="start"), later_run)
            new.publish([work_event(WorkerSeen(worker=worker, lease_s=30), "", worker)])
            for log in (old, new):
                assert log.wait_for(
                    lambda work: later_run in work.runs and work.runs[run_id].attempt and worker in work.members, 20
                )
            with old.look() as one, new.look() as two:
                assert one.runs[run_id].worker == two.runs[run_id].worker == "new"
                places = {each: run.place[0] for each, run in one.runs.items()}
            old.commit()
    ends = ends_of(own_log.address, (WORK,))

    assert places == {run_id: partition_of(run_id.encode(), PARTITIONS), later_run: partition_of(later_run.encode(), 7)}
    assert ends[WORK.name, places[run_id]] == 3, "the request and both claims"
