"""A job is the fold of its events: what is left to do after any of them, in any repetition, and what goes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.leyline.v1 import leyline_pb2
from contracts.leyline.v1.event_pb2 import ArtifactStored, BlueprintApproved
from contracts.leyline.v1.leyline_pb2 import KernelPrefetchRequest
from esper.errors import ContractViolation
from esper.leyline.envelope import body_name, new_event
from esper.tezzeret import events
from esper.tezzeret.jobs import OLD_MS, Ledger, Place, attempts_left, evolve, job_id_of, next_jobs, request

NOW_MS = 1_000


def test_the_same_kernel_is_the_same_job_and_any_other_is_not():
    job = job_id_of("BP009", "vector", [8], {"depth": 1.0}, "standard")

    assert job_id_of("BP009", "vector", (8,), {"depth": 1}, "standard") == job
    others = {
        job_id_of("BP010", "vector", [8], {"depth": 1.0}, "standard"),
        job_id_of("BP009", "token", [8], {"depth": 1.0}, "standard"),
        job_id_of("BP009", "vector", [9], {"depth": 1.0}, "standard"),
        job_id_of("BP009", "vector", [8], {"depth": 2.0}, "standard"),
        job_id_of("BP009", "vector", [8], {"depth": 1.0}, "fast"),
    }
    assert len(others - {job}) == 5


def test_a_job_runs_from_asked_for_to_catalogued(story):
    ledger = Ledger()

    def after(*told):
        for event in told:
            ledger.apply(event, story.place)
        job = ledger.jobs[story.body.job_id]
        return job.stage, job.needs

    assert after(story.asked) == ("requested", "compile")
    assert after(story.fold(story.started()) and story.started()) == ("started", "compile")
    assert after(story.finished()) == ("finished", "publish")
    stored, catalogued = story.published()
    assert after(stored) == ("stored", "publish")
    assert after(catalogued) == ("catalogued", "nothing")
    assert ledger.open() == []
    assert ledger.latest_version("BP009") == 1


def test_what_was_said_partly_is_completed_and_not_repeated(story):
    ledger = Ledger()
    story.fold(story.started())
    stored, catalogued = story.published()
    for event in (story.asked, story.started(), story.finished(), stored):
        ledger.apply(event, story.place)
    (job,) = ledger.open()

    assert events.published(job, story.artifact(), 7, 6) == [catalogued]


def test_an_attempt_that_was_cut_is_made_again_under_its_number(story):
    assert story.job.next_attempt == 1
    assert story.fold(story.started()).next_attempt == 1
    assert story.fold(story.failed()).next_attempt == 2


def test_a_failed_job_is_tried_again_and_then_parked(story):
    assert story.fold(story.started(), story.failed(1)).needs == "compile"
    assert story.fold(story.started(2), story.failed(2, will_retry=False)).needs == "park"
    assert story.fold(story.parked(2)).needs == "nothing"


@pytest.mark.requirement("R-TEZ-11")
def test_two_retries_are_the_default(story):
    """R-TEZ-11."""
    assert attempts_left(story.job, 2)
    assert not attempts_left(story.job, 3)
    assert attempts_left(story.job, 3, max_retries=3)
    assert not attempts_left(story.job, 1, max_retries=0)


def test_a_parked_job_that_is_asked_for_again_has_all_its_attempts_again(story):
    story.fold(story.started(), story.failed(1), story.started(2), story.failed(2, will_retry=False), story.parked(2))
    again = story.asked_again()

    assert story.fold(story.asked).needs == "nothing"
    assert again.event_id != story.asked.event_id
    job = story.fold(again)
    assert (job.needs, job.next_attempt) == ("compile", 3)
    assert attempts_left(job, 4)
    assert not attempts_left(job, 5)


def test_an_artifact_that_was_lost_before_it_was_told_of_sends_the_job_back(story):
    job = story.fold(story.started(), story.finished(), story.failed(1))

    assert (job.needs, job.next_attempt, job.artifact_ref) == ("compile", 2, "")


def test_an_artifact_that_was_told_of_is_never_taken_back(story):
    ledger = Ledger()
    story.fold(story.started())
    for event in (story.asked, story.started(), story.finished(), *story.published(), story.failed(1)):
        ledger.apply(event, story.place)

    assert ledger.jobs[story.body.job_id].stage == "catalogued"


@given(st.data())
def test_repetitions_change_nothing(stories, data):
    """At least once: any event may come again at any later place."""
    told = stories()
    line = [told.asked, told.started(1), told.failed(1), told.started(2)]
    told.fold(*line[1:])
    line += [told.finished(2), *told.published()]
    plain, doubled = Ledger(), Ledger()
    for number, event in enumerate(line):
        plain.apply(event, told.place)
        doubled.apply(event, told.place)
        for again in data.draw(st.lists(st.integers(0, number), max_size=4)):
            doubled.apply(line[again], told.place)

    assert doubled.jobs == plain.jobs
    assert doubled.open() == plain.open() == []


def test_a_request_under_a_wrong_id_is_refused(story):
    story.body.job_id = job_id_of("BP001", "vector", [8], {}, "standard")
    wrong = events.requested(story.body, 1, producer="test")

    with pytest.raises(ContractViolation, match="derive ids with job_id_of"):
        evolve(None, wrong, story.place)


def test_news_of_a_job_that_nobody_asked_for_is_refused(story):
    with pytest.raises(ContractViolation, match="nobody asked for"):
        evolve(None, story.started(), story.place)


def test_ids_of_events_are_the_same_at_every_telling_and_differ_between_attempts(story):
    story.fold(story.started())
    told = [story.started(1), story.started(2), story.failed(1), story.parked(1), story.finished(1), *story.published()]
    later = [
        story.started(1),
        story.started(2),
        story.failed(1),
        story.parked(1),
        story.finished(1),
        *story.published(),
    ]

    assert [event.event_id for event in told] == [event.event_id for event in later]
    assert len({event.event_id for event in told}) == len(told)
    assert {event.causation_id for event in told} == {story.asked.event_id}


def test_what_has_no_job_is_counted_all_the_same():
    ledger = Ledger()
    bundle = ArtifactStored(blueprint_id="BP001", artifact_ref="sha256:" + "c" * 64, artifact_version=4)
    approval = BlueprintApproved(blueprint_id="BP036", approved=True, by="ada", why="measured")
    for body in (bundle, approval):
        ledger.apply(new_event(body, event_id=bytes(16), run_id="", producer="t", recorded_at_ns=1), Place(1, 0, 0))

    assert ledger.latest_version("BP001") == 4
    assert ledger.approved == {"BP036"}
    approval.approved = False
    ledger.apply(new_event(approval, event_id=bytes(16), run_id="", producer="t", recorded_at_ns=1), Place(1, 0, 0))
    assert ledger.approved == set()


def names(jobs):
    return [job.blueprint_id for job in jobs]


@pytest.mark.requirement("R-TEZ-16")
def test_order_of_submission_holds_within_a_priority_whatever_the_partition(stories):
    late, early = stories("BP001", place=Place(20, 0, 3)), stories("BP002", place=Place(10, 3, 9))
    urgent = stories("BP003", place=Place(30, 1, 0), priority=leyline_pb2.MESSAGE_PRIORITY_HIGH)
    jobs = [late.job, early.job, urgent.job]

    assert names(next_jobs(jobs, NOW_MS, at_most=3)) == ["BP003", "BP002", "BP001"]
    assert names(next_jobs(reversed(jobs), NOW_MS, at_most=3)) == ["BP003", "BP002", "BP001"]


@pytest.mark.requirement("R-TEZ-6")
def test_at_most_so_many_run(stories):
    jobs = [stories(f"BP00{number}", place=Place(number, 0, number)).job for number in range(1, 5)]

    assert names(next_jobs(jobs, NOW_MS, at_most=2)) == ["BP001", "BP002"]
    assert names(next_jobs(jobs, NOW_MS, running=[jobs[0].job_id], at_most=2)) == ["BP002"]
    assert next_jobs(jobs, NOW_MS, running=[job.job_id for job in jobs[:2]], at_most=2) == []


def test_what_needs_only_events_never_waits(stories):
    running = [stories(f"BP00{number}").job for number in range(1, 3)]
    finished, exhausted = stories("BP003"), stories("BP004")
    finished.fold(finished.started(), finished.finished())
    exhausted.fold(exhausted.started(), exhausted.failed(will_retry=False))
    jobs = [*running, finished.job, exhausted.job]

    assert names(next_jobs(jobs, NOW_MS, running=[job.job_id for job in running], at_most=2)) == ["BP003", "BP004"]


def test_a_job_that_waits_long_gains_priority_but_never_more_than_the_highest(stories):
    old = stories("BP001", place=Place(0, 0, 0))
    high = stories("BP002", place=Place(OLD_MS, 0, 1), priority=leyline_pb2.MESSAGE_PRIORITY_HIGH)
    critical = stories("BP003", place=Place(OLD_MS * 9, 0, 2), priority=leyline_pb2.MESSAGE_PRIORITY_CRITICAL)

    assert names(next_jobs([old.job, high.job], OLD_MS, at_most=2)) == ["BP001", "BP002"]
    assert names(next_jobs([old.job, high.job], OLD_MS - 1, at_most=2)) == ["BP002", "BP001"]
    assert names(next_jobs([critical.job, old.job], OLD_MS * 9, at_most=1)) == ["BP001"]


def test_the_warnings_say_what_happened(story):
    warning = events.eager_fallback(story.job, story.artifact(), 1).telemetry_packet

    assert warning.level == leyline_pb2.TELEMETRY_LEVEL_WARNING
    assert warning.events[0].event_id == "eager_fallback"
    assert events.eager_fallback(story.job, story.artifact(), 1).priority == leyline_pb2.MESSAGE_PRIORITY_HIGH
    assert warning.events[0].attributes["blueprint_id"] == "BP009"


def test_a_request_is_complete():
    body = request("BP009", "image", (3, 8, 8), {"depth": 1.0})

    assert (body.blueprint_id, list(body.shape), body.pipeline) == ("BP009", [3, 8, 8], "standard")
    assert body_name(events.requested(body, 1, producer="test")) == "compile_requested"


def prefetch(blueprint_id="BP009", event_id=b"a" * 16):
    body = KernelPrefetchRequest(blueprint_id=blueprint_id, shape_kind="vector", shape=[8], parameters={"depth": 1.0})
    return new_event(body, event_id=event_id, run_id="run", producer="trainer", recorded_at_ns=1)


def test_a_wish_is_the_same_job_as_a_request_and_one_event_however_often_it_is_made(story):
    wish, again = (
        events.requested_by_prefetch(prefetch(), 7),
        events.requested_by_prefetch(prefetch(event_id=b"b" * 16), 8),
    )

    assert wish.compile_requested == story.body
    assert wish.event_id == again.event_id != story.asked.event_id
    assert evolve(None, wish, story.place).can_wait
    assert not story.job.can_wait


def test_what_was_wished_for_goes_at_once_when_somebody_asks_for_it_and_never_the_other_way_round(story):
    wish = events.requested_by_prefetch(prefetch(), 7)
    job = evolve(evolve(None, wish, story.place), story.asked, story.place)

    assert not job.can_wait
    assert job.stage == "requested"
    assert evolve(job, wish, story.place) == job


def test_a_wish_does_not_begin_a_parked_job_anew(story):
    parked = story.fold(story.started(), story.failed(1, will_retry=False), story.parked(1))

    assert evolve(parked, events.requested_by_prefetch(prefetch(), 7), story.place).needs == "nothing"


def test_what_can_wait_does_until_the_machine_is_idle_and_then_begins_one_at_a_time(stories):
    low = leyline_pb2.MESSAGE_PRIORITY_LOW
    wished = [stories(f"BP00{number}", place=Place(number, 0, number), priority=low).job for number in (1, 2)]
    asked = stories("BP009").job

    assert next_jobs(wished, NOW_MS, at_most=2, idle=False) == []
    assert names(next_jobs(wished, NOW_MS, at_most=2, idle=True)) == ["BP001"]
    assert names(next_jobs([*wished, asked], NOW_MS, at_most=2, idle=True)) == ["BP009"]
