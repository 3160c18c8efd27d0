"""The forge's process: requests on the log become artifacts, once; a bad one stops nobody; it ends when told."""

from __future__ import annotations

import httpx
import psutil
import pytest

from contracts.topics import EMERGENCY, TELEMETRY
from esper.leyline.envelope import body_name, body_of
from esper.tezzeret import events
from esper.tezzeret.jobs import request
from tests.integration.forge.conftest import NO_COMPILER

ROOM_FOR_THE_FORGE = 150 * 2**20


@pytest.mark.requirement("R-TEZ-12", "R-TEZ-24")
def test_requests_become_artifacts_once_and_a_bad_one_is_parked(house):
    good, job = house.ask("BP009", {"depth": 1.0})
    bad, _ = house.ask("BP999")
    house.publish(bad, good)
    house.start()
    found = house.until("kernel_catalog_update")
    kept = house.stored_once(job)

    line = [body_name(event) for event in found if body_of(event).blueprint_id == "BP009"]
    assert line == [
        "compile_requested",
        "compile_started",
        "compile_finished",
        "artifact_stored",
        "kernel_catalog_update",
    ]
    told = {body_name(event): body_of(event) for event in house.until("compile_parked")}
    assert (told["compile_failed"].attempt, told["compile_failed"].will_retry) == (1, False)
    assert "there is no blueprint 'BP999'" in told["compile_parked"].reason
    assert kept.report.form == "eager"
    assert not kept.report.eager_fallback
    assert [each.batch for each in kept.report.prewarm] == [16, 64]

    health = httpx.get(f"http://127.0.0.1:{house.health_port}/health").json()
    assert (health["status"], health["figures"]["jobs_open"]) == ("ok", 0.0)
    before = len(house.read())
    house.publish(good)  # asked for again
    assert house.terminate()[0] == 0
    house.start()
    assert len(house.read()) == before + 1
    assert list(house.work.iterdir()) == []
    metrics = httpx.get(f"http://127.0.0.1:{house.health_port}/metrics").text
    assert "esper_tezzeret_jobs_open 0.0" in metrics
    assert house.stored() == {kept.ref, kept.weights_ref}


@pytest.mark.cold  # a fork has torch already, and more than the memory that it gets
@pytest.mark.requirement("R-TEZ-13")
def test_what_fails_is_tried_again_without_the_compiler_then_parked_and_may_be_asked_for_again(house):
    """R-TEZ-11; and R-TEZ-13, because the second time no compiler works."""
    asked, job = house.ask("BP009", {"depth": 1.0}, "fast")
    house.start()
    # Its children inherit this: too little for torch, enough for the forge.
    psutil.Process(house.forge.pid).rlimit(psutil.RLIMIT_DATA, (ROOM_FOR_THE_FORGE, ROOM_FOR_THE_FORGE))
    house.publish(asked)
    found = house.until("compile_parked")

    line = [(body_name(event), getattr(body_of(event), "pipeline", "")) for event in found]
    assert line == [
        ("compile_requested", "fast"),
        ("compile_started", "fast"),
        ("compile_failed", ""),
        ("compile_started", "emergency"),
        ("compile_failed", ""),
        ("compile_started", "emergency"),
        ("compile_failed", ""),
        ("compile_parked", ""),
    ]
    failures = [event.compile_failed for event in found if body_name(event) == "compile_failed"]
    assert [body.will_retry for body in failures] == [True, True, False]

    house.kill()
    house.start(env=NO_COMPILER)
    house.publish(asked)  # the old request, come again: no reason to begin anew
    house.publish(events.requested(request_of(job), 2, producer="test", attempts_made=3))
    found = house.until("kernel_catalog_update")
    started = [event.compile_started for event in found if body_name(event) == "compile_started"]
    assert [(body.attempt, body.pipeline) for body in started] == [
        *((1, "fast"), (2, "emergency"), (3, "emergency")),
        (4, "fast"),
    ]
    assert house.stored_once(job).report.eager_fallback
    warned = {each.event_id: each for event in house.read(EMERGENCY) for each in event.telemetry_packet.events}
    assert warned["eager_fallback"].attributes["blueprint_id"] == "BP009"
    assert "the compiler failed" in warned["eager_fallback"].attributes["reason"]
    points = [point for event in house.read(TELEMETRY) for point in event.telemetry_packet.metrics]
    assert [(point.name, point.value) for point in points] == [
        ("tezzeret.compile.retry_count", retries) for retries in (0, 1, 2, 0)
    ]


def request_of(job):
    return request(job.blueprint_id, job.shape_kind, job.shape, job.parameters, job.pipeline)


@pytest.mark.serial
def test_sigterm_ends_it_and_its_child_in_time(house, when, compiler):
    asked, job = house.ask("BP009", {"depth": 1.0}, "fast")
    house.publish(asked)
    house.start(env={"CXX": str(compiler)})
    house.until("compile_started")
    forge = psutil.Process(house.forge.pid)
    when(forge.children)
    (running,) = forge.children()

    code, seconds = house.terminate()

    assert (code, seconds < 2.5) == (0, True)
    assert not running.is_running()
    house.start(env=NO_COMPILER)
    house.until("kernel_catalog_update")
    assert house.names().count("compile_started") == 1
    house.stored_once(job)


def test_a_killed_forge_takes_its_child_along(house, when, compiler):
    asked, _ = house.ask("BP009", {"depth": 1.0}, "fast")  # one without a compiler ends in 0.05 s, unseen
    house.publish(asked)
    house.start(env={"CXX": str(compiler)})
    forge = psutil.Process(house.forge.pid)
    when(forge.children)
    (running,) = forge.children()

    house.kill()

    when(lambda: not running.is_running() or running.status() == psutil.STATUS_ZOMBIE, timeout_s=5.0)


def test_a_folder_has_one_forge(house):
    house.start()
    second = house.spawn()

    assert second.wait(20) == 1
    second.stdout.close()
    assert "another forge works in" in (house.data_dir / "forge.stderr").read_text()
