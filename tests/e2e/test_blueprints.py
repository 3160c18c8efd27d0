"""`esper blueprints` with all processes: approve, compile, and what the reading commands say of it afterwards."""

from __future__ import annotations

import signal

import psutil
import pytest

ROOM_FOR_THE_FORGE = 200 * 2**20
"""Enough for the forge and too little for torch, so that its children fail at once."""


def test_an_approval_is_recorded_once_and_can_be_taken_back(shared_esper):
    approve = ("blueprints", "approve", "BP039", "--by", "ada")
    said = shared_esper.json(*approve, "--why", "ODEs on spirals")
    again = shared_esper(*approve, "--why", "again", code=2)
    shared_esper(*approve, "--why", "too slow", "--withdraw")
    never = shared_esper("blueprints", "approve", "BP040", "--by", "ada", "--why", "?", "--withdraw", code=2)

    assert (said["blueprint_id"], said["approved"], said["by"]) == ("BP039", True, "ada")
    assert "approved already, by ada: ODEs on spirals; withdraw that first" in again.stderr
    assert "is not approved, so there is nothing to withdraw" in never.stderr
    assert again.stderr.count("\n") == never.stderr.count("\n") == 1
    told = [moment for moment in shared_esper.json("blueprints", "history", "BP039") if "by" in moment]
    assert [(moment["what"], moment["why"]) for moment in told] == [
        ("approved", "ODEs on spirals"),
        ("approval withdrawn", "too slow"),
    ]
    assert len({moment["event_id"] for moment in told}) == 2
    assert shared_esper.processes() == []


def test_kernels_are_made_once_and_shown_with_what_they_cost(shared_esper):
    """The identity is compiled in a moment, whatever the machine does besides."""
    compile_ = ("blueprints", "compile", "identity_passthrough", "--shape", "4x2x2", "--pipeline", "fast")
    made = shared_esper.json(*compile_)
    before = shared_esper.json("blueprints", "show", "BP001")["stored"]
    again = shared_esper(*compile_)
    refused = shared_esper("blueprints", "compile", "BP040", "--shape", "8", code=2)

    assert (made["stored"], made["skipped"], made["parked"]) == (1, 0, 0)
    assert [kernel["shape"] for kernel in made["kernels"]] == [[4, 2, 2]]
    assert all(kernel["eager_us"] > 0 and kernel["form"] in ("eager", "compiled") for kernel in made["kernels"])
    assert "0 stored, 1 stored already, 0 given up" in again.stdout
    assert "differentiable_nas (BP040) is experimental and not approved; approve it first: " in refused.stderr
    assert {version["artifact_ref"] for version in before} == {kernel["artifact_ref"] for kernel in made["kernels"]}
    assert shared_esper.json("blueprints", "show", "BP001")["stored"] == before
    assert [row["blueprint_id"] for row in shared_esper.json("blueprints", "list", "--stored")] == ["BP001"]
    assert shared_esper.processes() == []


@pytest.mark.soak  # ten processor seconds; that it fails, is tried again and parked: integration/forge/test_forge.py
@pytest.mark.cold  # a fork has torch already, and more than this memory
def test_what_is_given_up_is_said_and_the_exit_code_is_1(esper):
    process = esper.start("blueprints", "compile", "BP009", "--shape", "8")
    (forge,) = esper.wait_until(lambda: esper.named("forge"))
    psutil.Process(forge.pid).rlimit(psutil.RLIMIT_DATA, (ROOM_FOR_THE_FORGE, ROOM_FOR_THE_FORGE))
    stdout, stderr = process.communicate(timeout=120)

    assert process.returncode == 1, stdout + stderr
    assert "residual_block (BP009) 8: compiling (fast, attempt 2 after: " in stdout
    assert "residual_block (BP009) 8: compiling (emergency, attempt 3 after: " in stdout
    assert "0 stored, 0 stored already, 1 given up" in stdout
    assert esper.processes() == []


@pytest.mark.parametrize("when", ["compiling", pytest.param("starting", marks=pytest.mark.soak)])
def test_ctrl_c_leaves_nothing_running(esper, when):
    process = esper.start("blueprints", "compile", "BP009", "--shape", "4x8x8")
    seen = ""
    while when not in seen:
        seen = process.stdout.readline()
        assert seen, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)

    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert (when == "compiling") == ("1 of 1 kernels are not made yet; the forge of the next run" in stderr)
    esper.wait_until(lambda: not esper.processes(), 5.0)
