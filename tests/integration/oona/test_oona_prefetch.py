"""A trainer's prefetch with the real worker: kernels come into memory, bad ones are refused and told of, none waits."""

from __future__ import annotations

import re
import threading
import time

import pytest

from contracts.leyline.v1.leyline_pb2 import KernelArtifactReady
from contracts.topics import EMERGENCY
from esper.leyline.envelope import body_name
from esper.leyline.signing import KeyRing
from esper.urza.artifact import Kernel, Refusal
from esper.urza.cache import KernelCache
from esper.urza.library import Wanted
from esper.urza.version import Place
from streams.prefetch import Prefetch
from streams.writer import LogWriter

PLACE = Place.of("vector", (4,), {"depth": 2.0})


@pytest.fixture(scope="module")
def worker(log, data_dir, start_process):
    return start_process("worker", data_dir, log.address)


@pytest.fixture
def prefetch(worker, writer, ring, objects, run_id, metrics):
    kernels = KernelCache(objects, time.monotonic)
    made = Prefetch(writer, ring, kernels, run_id=run_id, metrics=metrics)
    yield made
    made.close()


def eventually(found, enough, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not enough(result := found()):
        assert time.monotonic() < deadline, result
        time.sleep(0.02)
    return result


@pytest.fixture
def wanted(blueprint):
    return Wanted(blueprint, PLACE)


@pytest.fixture
def stored(worker, scrape, forge, blueprint):
    """The reference of a kernel that the worker's library has."""

    def versions():
        return scrape(worker)[1].get("esper_urza_library_versions", 0)

    before = versions()
    ref = forge.store(blueprint)
    eventually(versions, lambda now: now > before)
    return ref


def flip(objects, ref):
    digest = ref.removeprefix("sha256:")
    path = objects.root / digest[:2] / digest[2:]
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


def test_what_is_wanted_comes_into_memory(prefetch, stored, wanted, metrics):
    prefetch.want([wanted])

    kernel = eventually(lambda: prefetch.take(wanted), lambda found: isinstance(found, Kernel))

    assert kernel.artifact_ref == stored
    assert metrics.value("esper_urza_cache_hits_total") == 1


def test_what_is_not_there_yet_is_fetched_once_it_is_catalogued(prefetch, forge, wanted, scrape, worker):
    def not_found():
        said = re.findall(r'esper_urza_prefetch_total{outcome="artifact_not_found"} (\S+)', scrape.text(worker))
        return float(said[0]) if said else 0.0

    before = not_found()
    prefetch.want([wanted])
    eventually(not_found, lambda now: now > before)
    assert prefetch.take(wanted) is None

    ref = forge.store(wanted.blueprint_id)

    kernel = eventually(lambda: prefetch.take(wanted), lambda found: isinstance(found, Kernel))
    assert kernel.artifact_ref == ref


def test_what_the_library_refuses_is_refused(prefetch, stored, objects, wanted):
    flip(objects, stored)
    prefetch.want([wanted])

    refusal = eventually(lambda: prefetch.take(wanted), lambda found: isinstance(found, Refusal))

    assert refusal.reason == "checksum_mismatch"


def test_what_goes_bad_after_the_library_has_served_it_is_refused_counted_and_told_of(
    prefetch, stored, objects, wanted, read_until, ring, writer, metrics
):
    """The library has it in its memory, the trainer reads the disk itself."""
    other = Prefetch(writer, ring, KernelCache(objects, time.monotonic), run_id="another", metrics=metrics)
    other.want([wanted])
    eventually(lambda: other.take(wanted), lambda found: isinstance(found, Kernel))
    other.close()
    flip(objects, stored)

    prefetch.want([wanted])

    refusal = eventually(lambda: prefetch.take(wanted), lambda found: isinstance(found, Refusal))
    (told,) = read_until(lambda found: len(found) == 1, topics=(EMERGENCY,))
    assert refusal.reason == told.telemetry_packet.events[0].event_id == "checksum_mismatch"
    assert told.telemetry_packet.source_subsystem == "trainer"
    assert told.telemetry_packet.events[0].attributes["artifact_ref"] == stored
    assert metrics.value("esper_urza_integrity_failures_total", reason="checksum_mismatch") == 1


def test_an_answer_that_a_wrong_key_vouches_for_is_not_believed_and_told_of(
    prefetch, log, events, metrics, wanted, read_until
):
    """Answers come until one is told of: whoever asks listens from some moment on."""
    prefetch.want([wanted])
    enough = threading.Event()

    def forge_answers():
        with LogWriter(log.address, KeyRing((b"w" * 32,)), producer="urza", metrics=metrics) as forger:
            while not enough.wait(0.2):
                forger.publish(events.make(KernelArtifactReady(request_id="x", blueprint_id=wanted.blueprint_id)))
                forger.flush()

    forging = threading.Thread(target=forge_answers)
    forging.start()
    try:
        told = read_until(
            lambda found: any(body_name(event) == "security_violation" for event in found), topics=(EMERGENCY,)
        )
    finally:
        enough.set()
        forging.join()

    assert {event.security_violation.reason for event in told} == {"invalid_signature"}
    assert prefetch.take(wanted) is None


@pytest.mark.serial
def test_nothing_waits_while_the_log_is_away(own_log, ring, objects, wanted, metrics):
    with LogWriter(own_log.address, ring, producer="trainer", metrics=metrics) as writer:
        prefetch = Prefetch(writer, ring, KernelCache(objects, time.monotonic), run_id="run", metrics=metrics)
        with own_log.frozen():
            prefetch.want([wanted])
            began = time.monotonic()
            assert prefetch.take(wanted) is None
            assert time.monotonic() - began < 0.5
        prefetch.close()
