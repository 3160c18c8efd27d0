"""The seven crash points of R-TEZ-15: a forge killed there and started again ends as if it never had been."""

from __future__ import annotations

import random
import shutil
import time

import pytest

from esper.karn.table import CATALOGUE
from esper.leyline.envelope import body_name, body_of
from esper.tezzeret import events, results
from esper.tezzeret.jobs import Place, evolve
from tests.integration.forge.conftest import NO_COMPILER

READY_S = 12.0


@pytest.fixture
def asked(house):
    """A request on the log, and its job."""
    event, job = house.ask("BP009", {"depth": 1.0})
    house.publish(event)
    return job


def begun(house, job):
    """The attempt is on the log, too."""
    told = events.started(job, 1, "emergency", time.time_ns())
    house.publish(told)
    return evolve(job, told, Place(0, 0, 0))


def recovered(house, job, *, attempts=1):
    """Start the forge again: in time, the artifact stored once, nothing left behind."""
    assert house.start(env=NO_COMPILER) < READY_S
    house.until("kernel_catalog_update")
    kept = house.stored_once(job)
    assert house.names().count("compile_started") == attempts
    assert house.names().count("compile_parked") == 0
    code, _ = house.terminate()
    assert code == 0
    return kept


@pytest.mark.requirement("R-TEZ-15")
def test_after_the_beginning(house, asked):
    house.start()
    house.until("compile_started")
    house.kill()

    recovered(house, asked)


@pytest.mark.requirement("R-TEZ-15", "R-OPS-9")
def test_in_the_middle_of_compiling(house, when, compiler):
    event, job = house.ask("BP009", {"depth": 1.0}, "fast")  # without a compiler it is over in 0.05 s, unseen
    house.publish(event)
    house.start(env={"CXX": str(compiler)})
    when(lambda: any(house.work.glob("*/weights.safetensors")))
    house.kill()

    recovered(house, job)


@pytest.mark.requirement("R-TEZ-15", "R-URZA-7")
def test_in_the_middle_of_storing_the_artifact(house, asked, when):
    begun(house, asked)
    house.prepared(asked)
    house.forge = house.spawn()
    when(house.objects.root.exists)
    house.kill()

    recovered(house, asked)


@pytest.mark.requirement("R-TEZ-15")
def test_before_the_commit(house, when, compiler):
    """The log takes nothing; what the child had made is used, not made again."""
    event, job = house.ask("BP009", {"depth": 1.0}, "fast")
    house.publish(event)
    house.start(env={"CXX": str(compiler)})
    when(lambda: any(house.work.glob("*/weights.safetensors")))
    with house.frozen_log():
        compiler.with_name("c++.ends").touch()
        when(lambda: len(house.stored()) == 2)
        made = house.stored()
        house.kill()

    kept = recovered(house, job)
    assert house.stored() == made == {kept.ref, kept.weights_ref}


@pytest.mark.requirement("R-TEZ-15")
@pytest.mark.parametrize("told", [1, 2])
def test_in_the_middle_of_the_commit(house, asked, told):
    """The log has the first one or two of the three events that tell of the artifact."""
    job = begun(house, asked)
    folder = house.prepared(job)
    stored = results.store(house.objects, folder, results.read_report(folder))
    line = [events.finished(job, stored, 1), *events.published(job, stored, 1, 1)]
    house.publish(*line[:told])

    assert recovered(house, job).ref == stored.ref


@pytest.mark.requirement("R-TEZ-15", "R-OPS-9")
def test_after_the_commit(house, asked):
    """All is on the log and the folder is still there."""
    job = begun(house, asked)
    folder = house.prepared(job)
    stored = results.store(house.objects, folder, results.read_report(folder))
    house.publish(events.finished(job, stored, 1), *events.published(job, stored, 1, 1))
    before = len(house.read())

    assert recovered(house, job).ref == stored.ref
    assert len(house.read()) == before
    assert list(house.work.iterdir()) == []


@pytest.mark.requirement("R-TEZ-15", "R-URZA-7")
def test_storage_lost_in_the_middle_of_the_commit(house, asked):
    """The log names an artifact that the disk has lost: it is rolled back and made anew."""
    job = begun(house, asked)
    folder = house.prepared(job)
    stored = results.store(house.objects, folder, results.read_report(folder))
    house.publish(events.finished(job, stored, 1))
    house.objects.delete(stored.ref)
    shutil.rmtree(folder)

    house.start()
    house.until("kernel_catalog_update")
    (failed,) = [body_of(event) for event in house.read() if body_name(event) == "compile_failed"]
    assert "was lost before it was published" in failed.reason
    assert house.names().count("compile_started") == 2
    (told,) = [body_of(event) for event in house.read() if body_name(event) == "artifact_stored"]
    assert results.read(house.objects, told.artifact_ref).report.attempt == 2


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_fifty_kills_at_random_moments(house):
    """Every template is stored exactly once, whenever the forge was killed (R-TEZ-16)."""
    draw = random.Random(3)
    templates = ("BP001", "BP002", "BP003", "BP005", "BP008", "BP009", "BP011", "BP012")
    for number in range(50):
        if number % 6 == 0 and number // 6 < len(templates):
            template = CATALOGUE[templates[number // 6]]
            event, _ = house.ask(template.blueprint_id, template.resolve({}))
            house.publish(event)
        assert house.start() < READY_S
        time.sleep(draw.uniform(0.0, 4.0))
        house.kill()
    assert house.start() < READY_S
    found = house.until("kernel_catalog_update", len(templates), timeout_s=300)
    for name in ("compile_finished", "artifact_stored", "kernel_catalog_update"):
        ids = {event.event_id for event in found if body_name(event) == name}
        refs = {body_of(event).artifact_ref for event in found if body_name(event) == name}
        assert (name, len(ids), len(refs)) == (name, len(templates), len(templates))
    assert house.names().count("compile_parked") == 0
