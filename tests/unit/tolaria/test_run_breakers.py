"""The trainer's breakers: each guards a named call, opens on a fault, does what is documented, and is tried again."""

from __future__ import annotations

import platform

import pytest
import torch
from torch import nn

from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.leyline.v1.event_pb2 import KernelAttached
from esper.kasmina.settings import SeedSettings
from esper.kasmina.telemetry import MEMORY_DENIED
from esper.testing import command_event, seed_command, signed
from esper.tolaria.commands import _judge_kernels, apply_arrived, apply_command, drain, take_effect
from esper.tolaria.config import RunConfig
from esper.tolaria.epoch import _look_at_breakers
from esper.tolaria.new_run import make_run
from esper.tolaria.session import publish_start
from esper.tolaria.swaps import swap_kernels
from esper.tolaria.world import Request
from esper.urza.artifact import Kernel, Refusal
from tests.unit.tolaria.conftest import make_host

OPEN, CLOSED = leyline.CIRCUIT_BREAKER_STATE_OPEN, leyline.CIRCUIT_BREAKER_STATE_CLOSED
HALF_OPEN = leyline.CIRCUIT_BREAKER_STATE_HALF_OPEN
ROT = "guard_mismatch: rotten"


class Rotten:
    """A library none of whose kernels can be used."""

    asked = 0

    def want(self, wanted) -> None:
        """It has them all."""

    def take(self, _wanted) -> Refusal:
        self.asked += 1
        return Refusal("guard_mismatch", "rotten")


@pytest.fixture
def started(bench, tiny_task):
    def run(library=None, task=None, **config):
        settings = {"rate_policy": "constant", "growth_data_share": 0.0, "growth_budget_factor": 9.0} | config
        config = RunConfig(task="tiny", policy="none", **settings)
        found = make_run(config, task or tiny_task(), bench.world(bench.verifier, library), run_id="run")
        publish_start(found)
        return found

    return run


def changes(bench, name):
    return [body.to_state for body in bench.log.bodies("breaker_changed") if body.breaker == name]


def tell(bench, run, event):
    bench.log.send(signed(event))
    apply_arrived(run)


def germinate(bench, seed_id="s1", run_id="run"):
    return seed_command(run_id, leyline.SEED_OPERATION_GERMINATE, seed_id, "BP009", clock=bench.clock.clock)


def refused(bench) -> list[str]:
    return [body.reason for body in bench.log.bodies("command_rejected")]


@pytest.mark.requirement("R-SEC-15")
def test_three_commands_that_no_honest_holder_of_a_key_sends_close_the_door_for_half_a_minute(bench, started):
    run = started()
    for _ in range(5):
        unsigned = signed(germinate(bench))
        bench.log.send(type(unsigned)(unsigned.payload, unsigned.key_id, b"x" * 32))
    apply_arrived(run)
    assert set(refused(bench)) == {"invalid_signature"}
    assert changes(bench, "security") == [], "whoever has no key opens nothing"

    for _ in range(3):
        tell(bench, run, germinate(bench, run_id="another"))
    assert changes(bench, "security") == [OPEN]
    assert run.mode.on
    tell(bench, run, germinate(bench))
    assert refused(bench)[-1] == "security_breaker"
    assert bench.log.bodies("command_applied") == []

    bench.clock.advance(30.0)
    tell(bench, run, germinate(bench))
    assert changes(bench, "security") == [OPEN, HALF_OPEN, CLOSED]
    assert [body.seed_id for body in bench.log.bodies("command_applied")] == ["s1"]
    assert not run.mode.on


def test_a_person_opens_that_door_again(bench, started):
    run = started()
    for _ in range(3):
        tell(bench, run, germinate(bench, run_id="another"))
    payload = leyline.CommandCircuitBreaker(desired_state=CLOSED, rationale="looked at")
    command = leyline.AdaptationCommand(command_type=leyline.COMMAND_TYPE_CIRCUIT_BREAKER, circuit_breaker=payload)
    command.annotations["breaker"] = "security"
    tell(bench, run, command_event("run", command, clock=bench.clock.clock))
    assert changes(bench, "security") == [OPEN, CLOSED]


def test_no_command_opens_the_breaker_of_emergencies(bench, started):
    run = started()
    command = leyline.AdaptationCommand(
        command_type=leyline.COMMAND_TYPE_CIRCUIT_BREAKER,
        circuit_breaker=leyline.CommandCircuitBreaker(desired_state=OPEN),
    )
    command.annotations["breaker"] = "emergency"
    tell(bench, run, command_event("run", command, clock=bench.clock.clock))
    assert refused(bench) == ["bad_breaker_state"]


@pytest.mark.requirement("R-KAS-26")
def test_ten_kernels_that_cannot_be_used_have_seeds_built_here_until_one_can(bench, started):
    library = Rotten()
    run = started(library)
    apply_command(run, Request(germinate(bench)))
    (attached,) = bench.log.bodies("kernel_attached")
    assert (attached.form, attached.trouble) == ("identity", ROT)
    for _ in range(8):
        _judge_kernels(run, [KernelAttached(seed_id="s1", trouble=ROT)])
    assert changes(bench, "kernel_loading") == []
    _judge_kernels(run, [KernelAttached(seed_id="s1", trouble=ROT)])
    assert changes(bench, "kernel_loading") == [OPEN]
    assert not run.mode.on, "what is built here grows as well"

    asked = library.asked
    apply_command(run, Request(germinate(bench, "s2")))
    assert library.asked == asked
    assert bench.log.bodies("kernel_attached")[-1].form == "eager"

    bench.clock.advance(30.0)
    tell(bench, run, seed_command("run", leyline.SEED_OPERATION_CULL, "s2", clock=bench.clock.clock))
    assert changes(bench, "kernel_loading") == [OPEN, HALF_OPEN]
    for _ in range(3):
        _judge_kernels(run, [KernelAttached(seed_id="s1", artifact_ref="sha256:1")])
    assert changes(bench, "kernel_loading") == [OPEN, HALF_OPEN, CLOSED]


class Garbled(Rotten):
    """A library that has a compiled kernel by now, another one each time, whose cache nobody can read."""

    has = False

    def take(self, _wanted) -> Kernel | None:
        self.asked += 1
        here = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
        here["cpu"] = torch.backends.cpu.get_cpu_capability()
        manifest = {"form": "compiled", "toolchain": here, "pipeline": "fast"}
        return Kernel(f"sha256:{self.asked:064}", b"", manifest, b"", b"garbled") if self.has else None


@pytest.mark.requirement("R-KAS-26")
def test_three_compiled_kernels_that_cannot_serve_leave_the_eager_ones_alone_for_half_a_minute(
    bench, started, tiny_task
):
    library = Garbled()
    large = tiny_task(make_host=lambda: nn.Sequential(*make_host()[:-1], nn.Linear(6, 90), nn.Linear(90, 3)))
    run = started(library, large, compiled_kernels=True, seeds=SeedSettings(lifecycle="swift"))
    tell(bench, run, germinate(bench))
    for _ in range(20):
        take_effect(run, run.kasmina.advance_step())
    assert run.kasmina.swappable()
    library.has = True

    def tries() -> int:
        before = len(run.swaps_tried)
        swap_kernels(run, lambda: run.work.forward(run.host))
        return len(run.swaps_tried) - before

    assert [tries() for _ in range(5)] == [1, 1, 1, 0, 0]
    assert changes(bench, "recompilation") == [OPEN]
    assert not run.mode.on, "the eager ones serve"
    bench.clock.advance(30.0)
    assert [tries() for _ in range(2)] == [1, 0]
    assert changes(bench, "recompilation") == [OPEN, HALF_OPEN, OPEN]
    assert bench.log.bodies("kernel_swapped") == []


@pytest.mark.requirement("R-KAS-26", "R-KAS-41")
def test_five_seeds_that_keep_too_much_memory_within_a_minute_stop_growth_until_three_epochs_went_well(bench, started):
    run = started()
    outbox = run.kasmina._moves._outbox
    for _ in range(5):
        outbox.tell("s1", MEMORY_DENIED, leyline.TELEMETRY_LEVEL_CRITICAL, reason="keeps 9 MiB")
        drain(run)
    assert changes(bench, "memory_bounds") == [OPEN]
    tell(bench, run, germinate(bench))
    assert refused(bench) == ["conservative_mode"]

    bench.clock.advance(30.0)
    run.memory_breaker.poll()
    for _ in range(3):
        _look_at_breakers(run)
    assert changes(bench, "memory_bounds")[-1] == CLOSED
