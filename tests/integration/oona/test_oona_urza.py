"""Urza in the worker: one answer a request; what is refused or damaged is told of; a kill loses nothing."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter

import pytest

from contracts.leyline.v1 import leyline_pb2 as lp
from contracts.topics import BLUEPRINTS, EMERGENCY, KERNELS
from esper.karn.table import CATALOGUE
from esper.leyline import ids
from esper.leyline.envelope import body_name
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing
from esper.urza.artifact import Expected, Kernel, read
from streams.reader import past
from streams.writer import LogWriter


@pytest.fixture(scope="module")
def worker(log, data_dir, start_process):
    return start_process("worker", data_dir, log.address)


@pytest.fixture
def ask(writer, events):
    """Publishes a prefetch request; the event."""

    def publish(blueprint, *, age_s=0.0, request_id=None, depth=2.0):
        body = lp.KernelPrefetchRequest(
            request_id=request_id or f"prefetch-{uuid.uuid4()}",
            blueprint_id=blueprint,
            training_run_id=events.run_id,
            shape_kind="vector",
            shape=[4],
            parameters={"depth": depth},
        )
        body.issued_at.FromNanoseconds(time.time_ns() - round(age_s * 1e9))
        event = events.make(body)
        writer.publish(event)
        writer.flush()
        return event

    return publish


@pytest.fixture
def by_blueprint(log, ring):
    """The events of a blueprint on a topic that is keyed by it, until `enough`."""

    def read_some(blueprint, enough, topic=KERNELS, timeout_s=15.0):
        async def collect():
            return [
                event
                async for event in past(log.address, ring, topic)
                if getattr(getattr(event, body_name(event)), "blueprint_id", "") == blueprint
            ]

        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = asyncio.run(collect())
            if enough(found):
                return found
            time.sleep(0.1)
        raise AssertionError(f"{blueprint}: not enough on {topic.name}")

    return read_some


def answers(found):
    return [event for event in found if body_name(event) in {"kernel_artifact_ready", "kernel_artifact_error"}]


def answered(count):
    return lambda found: len(answers(found)) >= count


def stored_and_known(worker, scrape, before):
    """Wait until the library has one version more than before."""
    deadline = time.monotonic() + 10.0
    while scrape(worker)[1].get("esper_urza_library_versions", 0) <= before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def stored(worker, forge, scrape, blueprint):
    """An artifact that the worker's library has; its reference."""
    before = scrape(worker)[1].get("esper_urza_library_versions", 0)
    ref = forge.store(blueprint)
    stored_and_known(worker, scrape, before)
    return ref


def test_a_request_is_answered_with_what_a_consumer_can_check(stored, ask, by_blueprint, blueprint, objects):
    request = ask(blueprint)

    (answer,) = answers(by_blueprint(blueprint, answered(1)))

    assert answer.event_id == ids.derived_id(request.event_id, "urza.prefetch")
    assert answer.causation_id == request.event_id
    ready = answer.kernel_artifact_ready
    assert (ready.request_id, ready.artifact_ref) == (request.kernel_prefetch_request.request_id, stored)
    assert ready.prewarm_p50_ms == 0.5
    assert isinstance(read(objects, Expected.of_answer(ready, None)), Kernel)


def test_a_request_that_comes_twice_is_answered_once_and_its_id_is_used_up(
    stored, ask, writer, by_blueprint, blueprint, read_until
):
    request = ask(blueprint)
    by_blueprint(blueprint, answered(1))
    writer.publish(request)
    writer.flush()
    replay = ask(blueprint, request_id=request.kernel_prefetch_request.request_id)

    (told,) = read_until(lambda found: len(found) == 1, topics=(EMERGENCY,))

    assert told.security_violation.reason == "prefetch_replayed"
    assert told.security_violation.subject_id == replay.event_id
    assert len({event.event_id for event in answers(by_blueprint(blueprint, answered(1)))}) == 1


@pytest.mark.requirement("R-OONA-9")
def test_a_stale_request_is_refused_and_told_of(stored, ask, blueprint, read_until, scrape, worker):
    ask(blueprint, age_s=61.0)

    (told,) = read_until(lambda found: len(found) == 1, topics=(EMERGENCY,))

    assert told.security_violation.reason == "prefetch_stale"
    assert 'esper_urza_prefetch_total{outcome="prefetch_stale"}' in scrape.text(worker)


def test_what_is_not_stored_is_an_error_with_its_reason(stored, ask, by_blueprint, blueprint):
    ask(blueprint, depth=3.0)

    (answer,) = answers(by_blueprint(blueprint, answered(1)))

    assert answer.kernel_artifact_error.reason == "artifact_not_found"


@pytest.mark.requirement("R-TEZ-1")
def test_what_is_not_stored_is_wished_for_once_however_often_it_is_asked_for(worker, ask, by_blueprint, blueprint):
    ask(blueprint, depth=3.0)
    by_blueprint(blueprint, answered(1))
    ask(blueprint, depth=3.0)
    by_blueprint(blueprint, answered(2))
    ask(blueprint, depth=1.0)
    by_blueprint(blueprint, answered(3))

    wishes = by_blueprint(blueprint, lambda found: len(found) >= 2, BLUEPRINTS)

    assert [wish.compile_requested.parameters["depth"] for wish in wishes] == [3.0, 1.0]
    assert {wish.priority for wish in wishes} == {lp.MESSAGE_PRIORITY_LOW}


@pytest.mark.requirement("R-URZA-23")
def test_the_catalogue_is_told_once_also_by_a_worker_that_comes_back(own_log, ring, tmp_path, processes, worker):
    def told():
        async def collect():
            return [body_name(event) async for event in past(own_log.address, ring, BLUEPRINTS)]

        return Counter(asyncio.run(collect()))

    process = processes("worker", tmp_path, own_log.address)
    once = {"blueprint_registered": len(CATALOGUE), "bsds_issued": len(CATALOGUE)}
    assert told() == once
    for _ in range(2):
        process.kill()
        process.start()
        assert told() == once


@pytest.mark.requirement("R-URZA-3")
def test_a_flipped_bit_is_refused_counted_and_told_of(
    stored, ask, by_blueprint, blueprint, objects, read_until, scrape, worker
):
    digest = stored.removeprefix("sha256:")
    path = objects.root / digest[:2] / digest[2:]
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)

    ask(blueprint)

    (answer,) = answers(by_blueprint(blueprint, answered(1)))
    (told,) = read_until(lambda found: len(found) == 1, topics=(EMERGENCY,))
    assert answer.kernel_artifact_error.reason == "checksum_mismatch"
    assert told.telemetry_packet.events[0].event_id == "checksum_mismatch"
    assert told.telemetry_packet.events[0].attributes["artifact_ref"] == stored
    assert 'esper_urza_integrity_failures_total{reason="checksum_mismatch"} 1.0' in scrape.text(worker)


@pytest.mark.requirement("R-URZA-28")
def test_an_artifact_that_a_wrong_key_vouches_for_never_enters_the_library(
    worker, log, events, objects, metrics, ask, by_blueprint, blueprint, forge_of
):
    with LogWriter(log.address, KeyRing((b"w" * 32,)), producer="tezzeret", metrics=metrics) as forger:
        forge_of(forger, events, objects).store(blueprint)

    ask(blueprint)

    (answer,) = answers(by_blueprint(blueprint, answered(1)))
    assert answer.kernel_artifact_error.reason == "artifact_not_found"


@pytest.mark.requirement("R-URZA-1")
def test_killed_and_without_its_projection_the_worker_serves_the_same_library(
    own_log, ring, tmp_path, events, metrics, processes, forge_of, scrape
):
    """The ids that were used are known again, too: what comes again has its turn before the last request."""
    objects = ObjectStore(tmp_path / "objects")
    process = processes("worker", tmp_path, own_log.address)

    def found():
        async def collect():
            return [event async for event in past(own_log.address, ring, KERNELS)]

        return answers(asyncio.run(collect()))

    def wait_for(count):
        deadline = time.monotonic() + 15.0
        while len(found()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return found()

    def request(request_id):
        body = lp.KernelPrefetchRequest(
            request_id=request_id,
            blueprint_id="BP009",
            training_run_id="run",
            shape_kind="vector",
            shape=[4],
            parameters={"depth": 2.0},
        )
        body.issued_at.FromNanoseconds(time.time_ns())
        return events.make(body)

    with LogWriter(own_log.address, ring, producer="trainer", metrics=metrics) as writer:
        ref = forge_of(writer, events, objects).store("BP009")
        stored_and_known(process, scrape, 0)
        writer.publish(first := request("one"))
        writer.flush()
        wait_for(1)
        process.kill()
        for file in (tmp_path / "projections").iterdir():
            file.unlink()
        process.start()
        writer.publish(first)
        writer.publish(request("one"))
        writer.publish(request("two"))
        writer.publish(request("three"))
        writer.flush()
        told = wait_for(3)

    assert {each.kernel_artifact_ready.artifact_ref for each in told} == {ref}
    assert [each.kernel_artifact_ready.request_id for each in told] == ["one", "two", "three"]
    assert process.terminate()[0] == 0
    assert "leaked" not in process.stderr_path.read_text()
