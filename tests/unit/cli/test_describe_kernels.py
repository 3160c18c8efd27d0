"""What a person reads of a kernel: where it came from, which form serves, and why there is none."""

from __future__ import annotations

from contracts.leyline.v1.event_pb2 import KernelAttached, KernelSwapped
from esper.cli.events import headline
from esper.leyline.envelope import new_event

REF = "sha256:" + "0123456789abcdef" * 4


def told(body):
    return headline(new_event(body, event_id=bytes(16), run_id="run", producer="trainer", recorded_at_ns=1))


def test_a_kernel_says_where_it_came_from():
    body = KernelAttached(seed_id="s1", blueprint_id="BP009", form="eager", module_parameters=1200, attach_ms=2.0)

    assert (
        told(body)
        == "residual_block (BP009) at s1: 1,200 parameters, 0 FLOPs a sample, built from its template, eager, in 2.0 ms"
    )
    body.artifact_ref = REF
    assert "kernel 0123456789ab of the library, eager" in told(body)
    body.form, body.trouble = "identity", "checksum_mismatch: it changed"
    assert told(body) == (
        "residual_block (BP009) at s1: the identity, because its kernel cannot be used: checksum_mismatch: it changed"
    )


def test_a_swap_says_how_far_the_forms_are_apart():
    body = KernelSwapped(
        seed_id="s1",
        blueprint_id="BP009",
        from_form="eager",
        to_form="compiled",
        artifact_ref=REF,
        max_difference=3e-7,
    )

    assert (
        told(body)
        == "residual_block (BP009) at s1: eager to compiled, kernel 0123456789ab, outputs differ by 3.0e-07 at most"
    )
