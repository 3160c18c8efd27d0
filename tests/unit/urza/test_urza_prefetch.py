"""The prefetch protocol: one answer a request, and a reason for every request that gets none."""

from __future__ import annotations

import pytest

from contracts.leyline.v1.leyline_pb2 import (
    MESSAGE_PRIORITY_CRITICAL,
    MESSAGE_PRIORITY_HIGH,
    KernelArtifactError,
    KernelPrefetchRequest,
)
from contracts.topics import EMERGENCY, KERNELS
from esper.leyline import ids
from esper.leyline.envelope import body_name, new_event, topic_of
from esper.urza import prefetch
from esper.urza.artifact import IDENTITY, Kernel, Refusal
from esper.urza.library import Served
from esper.urza.prefetch import Nonces, judge

NOW_S = 1_760_000_000
NOW_NS = NOW_S * 10**9


def request(number=0, *, age_s=1.0, issued=True, **changes):
    fields = {
        "request_id": "prefetch-1",
        "blueprint_id": "BP009",
        "training_run_id": "run",
        "shape_kind": "vector",
        "shape": [4],
        "parameters": {"depth": 2.0},
    } | changes
    body = KernelPrefetchRequest(**fields)
    if issued:
        body.issued_at.FromNanoseconds(NOW_NS - round(age_s * 1e9))
    return new_event(
        body,
        event_id=ids.derived_id(b"test", "request", number),
        run_id="run",
        producer="trainer",
        recorded_at_ns=NOW_NS,
        correlation_id=b"c" * 16,
    )


@pytest.mark.requirement("R-URZA-19", "R-URZA-21")
@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (request(), "accepted"),
        (request(age_s=60.0), "accepted"),
        (request(age_s=60.1), "prefetch_stale"),
        (request(age_s=-5.0), "accepted"),
        (request(age_s=-5.1), "prefetch_from_the_future"),
        (request(issued=False), "prefetch_without_time"),
        (request(training_run_id=""), "prefetch_incomplete"),
        (request(request_id=""), "prefetch_incomplete"),
        (request(blueprint_id=""), "prefetch_incomplete"),
    ],
)
def test_who_is_answered(event, outcome):
    assert judge(event, Nonces(), now_ns=NOW_NS) == outcome


@pytest.mark.requirement("R-URZA-20")
def test_an_id_is_good_for_one_event_and_only_once_it_was_answered():
    nonces = Nonces()
    first, second = request(1), request(2)
    assert judge(first, nonces, now_ns=NOW_NS) == "accepted"
    assert judge(first, nonces, now_ns=NOW_NS) == "accepted"  # a failed attempt can be made again

    nonces.use("prefetch-1", first.event_id)

    assert judge(first, nonces, now_ns=NOW_NS) == "duplicate"
    assert judge(first, nonces, now_ns=NOW_NS + 10**12) == "duplicate"
    assert judge(second, nonces, now_ns=NOW_NS) == "prefetch_replayed"


@pytest.mark.requirement("R-URZA-19", "R-OONA-10")
def test_the_oldest_id_makes_room():
    nonces = Nonces(capacity=2)
    for number in range(3):
        nonces.use(f"r{number}", bytes([number]))

    assert (len(nonces), nonces.evictions) == (2, 1)
    assert (nonces.user("r0"), nonces.user("r2")) == (None, b"\x02")


def test_ids_are_known_again_from_the_answers_on_the_log(make_version):
    event = request()
    ready = prefetch.answer(event, Served(KERNEL, make_version()), now_ns=NOW_NS)
    error = prefetch.answer(request(1, request_id="other"), Served(IDENTITY, fallback="timeout"), now_ns=NOW_NS)
    nonces = Nonces()
    for each in (*ready, *error, event):
        nonces.restore(each)

    assert judge(event, nonces, now_ns=NOW_NS) == "duplicate"
    assert judge(request(2, request_id="other"), nonces, now_ns=NOW_NS) == "prefetch_replayed"
    assert len(nonces) == 2


@pytest.mark.requirement("R-URZA-22")
def test_ready_says_what_the_catalogue_has(make_version):
    version = make_version(prewarm_p50_ms=0.5, prewarm_p95_ms=0.75)
    event = request()

    (answer,) = prefetch.answer(event, Served(KERNEL, version), now_ns=NOW_NS)

    ready = answer.kernel_artifact_ready
    assert (ready.request_id, ready.blueprint_id) == ("prefetch-1", "BP009")
    assert (ready.artifact_ref, ready.checksum) == (version.artifact_ref, version.checksum)
    assert (ready.guard_digest, ready.prewarm_p50_ms, ready.prewarm_p95_ms) == (version.guard_digest, 0.5, 0.75)
    assert (answer.run_id, answer.producer, topic_of(answer)) == ("run", "urza", KERNELS)
    assert (answer.causation_id, answer.correlation_id) == (event.event_id, b"c" * 16)


@pytest.mark.requirement("R-URZA-18")
@pytest.mark.parametrize(
    ("served", "reason"),
    [
        ({"fallback": "artifact_not_found"}, "artifact_not_found"),
        ({"fallback": "timeout"}, "missing_artifact"),
        ({"fallback": "breaker_open"}, "missing_artifact"),
        ({"fallback": "conservative"}, "missing_artifact"),
        ({"fallback": "catalogue_failed"}, "missing_artifact"),
        ({"fallback": "refused", "refusal": "missing_artifact"}, "missing_artifact"),
        ({"fallback": "refused", "refusal": "checksum_mismatch"}, "checksum_mismatch"),
        ({"fallback": "refused", "refusal": "guard_mismatch"}, "checksum_mismatch"),
        ({"fallback": "refused", "refusal": "oversized"}, "checksum_mismatch"),
    ],
)
def test_an_error_has_one_of_three_reasons_and_a_failed_check_is_told_of(make_version, served, reason):
    refusal = Refusal(served["refusal"], "why") if "refusal" in served else None
    version = make_version() if refusal else None
    one = Served(IDENTITY, version, served["fallback"], refusal)

    *told, answer = prefetch.answer(request(), one, now_ns=NOW_NS)

    assert answer.kernel_artifact_error == KernelArtifactError(
        request_id="prefetch-1", blueprint_id="BP009", reason=reason
    )
    assert [each.telemetry_packet.events[0].event_id for each in told] == ([refusal.reason] if refusal else [])
    assert all(topic_of(each) == EMERGENCY for each in told)


@pytest.mark.requirement("R-URZA-18")
def test_a_redelivery_gives_the_same_event_whatever_was_served(make_version):
    event = request()

    ready = prefetch.answer(event, Served(KERNEL, make_version()), now_ns=NOW_NS)
    error = prefetch.answer(event, Served(IDENTITY, fallback="timeout"), now_ns=NOW_NS + 1)

    assert ready[-1].event_id == error[-1].event_id
    assert ready == prefetch.answer(event, Served(KERNEL, make_version()), now_ns=NOW_NS)


@pytest.mark.parametrize(
    ("outcome", "priority"),
    [("prefetch_replayed", MESSAGE_PRIORITY_CRITICAL), ("prefetch_stale", MESSAGE_PRIORITY_HIGH)],
)
def test_a_refused_request_is_a_security_event(outcome, priority):
    event = request()

    told = prefetch.refusal(event, outcome, now_ns=NOW_NS)

    assert (body_name(told), topic_of(told), told.priority) == ("security_violation", EMERGENCY, priority)
    assert told.security_violation.reason == outcome
    assert told.security_violation.subject_id == event.event_id
    assert "prefetch-1" in told.security_violation.detail


def test_what_is_wanted_is_compared_as_commands_carry_it():
    """A command's settings have 32 bits, a compile job's 64."""
    one, other = request(parameters={"scale": 0.1, "a": 1.0}), request(parameters={"a": 1.0, "scale": 0.10000000149})
    huge = request(parameters={"scale": 1e300})

    assert prefetch.wanted(one.kernel_prefetch_request) == prefetch.wanted(other.kernel_prefetch_request)
    assert prefetch.wanted(huge.kernel_prefetch_request) != prefetch.wanted(one.kernel_prefetch_request)


KERNEL = Kernel("sha256:" + "0" * 64, b"", {}, b"", b"")
