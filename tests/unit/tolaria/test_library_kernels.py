"""Kernels of the library in a run: verified before they are attached, never waited for, and of no say in the result."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from contracts.leyline.v1.event_pb2 import KernelAttached
from contracts.leyline.v1.leyline_pb2 import SEED_LIFECYCLE_STAGE_CULLED, SEED_OPERATION_GERMINATE
from esper.errors import CorruptState
from esper.kasmina.kernels import Unusable, Verified
from esper.kasmina.settings import SeedSettings
from esper.leyline.objects import ObjectStore
from esper.record import Recorded
from esper.testing import MemoryLog, seed_command, signed
from esper.tezzeret import kernel, results
from esper.tezzeret.jobs import job_id_of
from esper.tezzeret.results import Order
from esper.tolaria.config import RunConfig
from esper.tolaria.kernels import likely, recalled
from esper.tolaria.new_run import computes_in_32_bits
from esper.tolaria.outside import Outside
from esper.tolaria.replay import replay_run
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from esper.urza.artifact import MAX_BYTES, Expected
from esper.urza.cache import KernelCache


class Stock:
    """A library with real artifacts that answers at once; `change` is what is wrong with them."""

    def __init__(self, folder, clock):
        self.folder = folder
        self.objects = ObjectStore(folder / "objects")
        self.kernels = KernelCache(self.objects, clock)
        self.wanted = []
        self.change = lambda expected: expected
        self.made = {}

    def want(self, wanted):
        self.wanted += wanted

    def take(self, wanted):
        return self.kernels.fetch(self.change(self.artifact(wanted))).kernel

    def artifact(self, wanted):
        """The artifact as the forge makes it, without the measuring."""
        place = wanted.place
        job_id = job_id_of(wanted.blueprint_id, place.shape_kind, place.shape, place.settings, "emergency")
        order = Order(
            job_id,
            wanted.blueprint_id,
            place.shape_kind,
            place.shape,
            place.settings,
            *("emergency", "emergency"),
            *(1, 2**30),
            approved=False,
        )
        module = kernel.make(order)
        (self.folder / results.WEIGHTS_FILE).write_bytes(kernel.weights_of(module))
        guard = kernel.guard_of(module, place.shape)
        report = results.Report(
            **{name: getattr(order, name) for name in ("job_id", "blueprint_id", "shape_kind", "shape", "parameters")},
            pipeline="emergency",
            attempt=1,
            form="eager",
            eager_fallback=False,
            reason="",
            guard=guard,
            guard_digest=results.guard_digest(guard),
            eager_us=1.0,
            compiled_us=0.0,
            compile_ms=0.0,
            max_difference=0.0,
            prewarm=(results.Prewarm(16, 0.1, 0.2, 20),),
            toolchain={},
        )
        stored = results.store(self.objects, self.folder, report)
        self.made[stored.ref] = wanted
        return Expected(stored.ref, wanted.blueprint_id, stored.checksum, report.guard_digest, place)

    def rewrite(self, expected, **changes):
        """An artifact that says something else, properly stored."""
        manifest = json.loads(self.objects.get(expected.artifact_ref)) | changes
        ref = self.objects.put(json.dumps(manifest).encode())
        return replace(expected, artifact_ref=ref, checksum=ref.removeprefix("sha256:"))


@pytest.fixture
def stock(bench, tmp_path):
    return Stock(tmp_path, bench.clock.clock.monotonic)


@pytest.fixture
def grow(bench, tiny_task):
    """A run in which BP009 germinates at the first site before the first step; the log it left."""

    def run(library=None, *, blueprint="BP009", epochs=6, lifecycle="full", seed=0):
        log = MemoryLog(bench.clock.clock, objects=bench.objects)
        command = seed_command("run", SEED_OPERATION_GERMINATE, "s1", blueprint, clock=bench.clock.clock)
        log.command = command
        log.send(signed(command))
        seeds = SeedSettings(lifecycle=lifecycle)
        train(
            RunConfig(task="tiny", policy="none", seed=seed, seeds=seeds, epochs=epochs, rate_policy="constant"),
            tiny_task(),
            LiveWorld(Outside(log, bench.clock.clock, bench.objects, library=library)),
            run_id="run",
        )
        return log

    return run


def roots(log):
    return [body.root for body in log.bodies("state_digested")]


def stages(log):
    return [fact.to_stage for fact in log.bodies("seed_transitioned") if fact.seed_id == "s1"]


def test_a_kernel_of_the_library_gives_the_same_run_to_the_bit_as_one_built_from_the_template(grow, stock):
    fetched, built = grow(stock), grow()

    (one,), (other,) = fetched.bodies("kernel_attached"), built.bodies("kernel_attached")
    assert (one.artifact_ref in stock.made, other.artifact_ref) == (True, "")
    assert (one.form, one.kernel_digest) == (other.form, other.kernel_digest) == ("eager", other.kernel_digest)
    assert roots(fetched) == roots(built)
    assert stages(fetched) == stages(built)
    assert len(stages(built)) > 3


def test_weights_are_the_runs_own_and_not_the_artifacts(grow, stock):
    digests = {grow(stock, epochs=1, seed=seed).bodies("kernel_attached")[0].kernel_digest for seed in (1, 2, 3)}

    assert len(digests) == 3
    assert len(stock.made) == 1


FAULTS = {
    "checksum_mismatch": lambda _stock, expected: replace(expected, checksum="0" * 64),
    "missing_checksum": lambda _stock, expected: replace(expected, checksum=""),
    "missing_artifact": lambda _stock, expected: replace(expected, artifact_ref="sha256:" + "1" * 64),
    "guard_mismatch": lambda _stock, expected: replace(expected, guard_digest="1" * 64),
    "wrong_artifact": lambda _stock, expected: replace(expected, blueprint_id="BP021"),
    "oversized": lambda stock, expected: stock.rewrite(expected, weights_bytes=MAX_BYTES + 1),
    "malformed": lambda stock, expected: stock.rewrite(expected, weights_bytes="many"),
}


@pytest.mark.parametrize("lifecycle", ["full", "direct"])
@pytest.mark.parametrize("reason", FAULTS)
def test_a_kernel_that_cannot_be_used_fails_its_gate_and_the_run_goes_on_with_the_identity(
    grow, stock, reason, lifecycle
):
    stock.change = lambda expected: FAULTS[reason](stock, expected)

    log = grow(stock, lifecycle=lifecycle)

    (attached,) = log.bodies("kernel_attached")
    assert (attached.form, attached.artifact_ref, attached.module_parameters) == ("identity", "", 0)
    verdict, *_ = log.bodies("gate_evaluated")
    assert not verdict.passed
    assert verdict.reason == f"no kernel: {attached.trouble}"
    assert attached.trouble.startswith(f"{reason}: ")
    assert stages(log)[1] == SEED_LIFECYCLE_STAGE_CULLED
    (finished,) = log.bodies("run_finished")
    assert (finished.status, finished.culled) == ("completed", 1)


def test_a_kernel_that_fails_is_told_of(grow, stock):
    stock.change = lambda expected: replace(expected, checksum="0" * 64)

    told = [event for packet in grow(stock).bodies("telemetry_packet") for event in packet.events]

    kinds = [event.event_id for event in told]
    assert kinds.index("kernel_refused") < kinds.index("gate_failure")
    assert "checksum_mismatch" in told[kinds.index("kernel_refused")].attributes["reason"]


@pytest.mark.parametrize("entry", [1, 2])
def test_a_guard_that_the_module_does_not_fit_is_a_failed_gate(grow, stock, entry):
    def other_guard(expected):
        guard = json.loads(stock.objects.get(expected.artifact_ref))["guard"]
        if entry == 1:
            guard[1]["shape"] = ["batch", 7]
        else:
            guard[2]["stride"] = [1, 9]
        digest = results.guard_digest(guard)
        return replace(stock.rewrite(expected, guard=guard, guard_digest=digest), guard_digest=digest)

    stock.change = other_guard
    verdict, *_ = grow(stock).bodies("gate_evaluated")

    expected = ["shape_mismatch", "guard_mismatch"][entry - 1]
    assert verdict.reason.startswith(f"no kernel: {expected}: sha256:")


def test_the_same_kernel_failure_gives_the_same_digests(grow, stock):
    stock.change = lambda expected: replace(expected, checksum="0" * 64)

    assert roots(grow(stock)) == roots(grow(stock))


@pytest.mark.parametrize("fault", [None, "checksum_mismatch"])
def test_a_replay_attaches_what_was_attached_by_record_alone(grow, stock, bench, tiny_task, fault):
    """Also where that was the identity; no library is asked."""
    if fault is not None:
        stock.change = lambda expected: FAULTS[fault](stock, expected)
    log = grow(stock)
    facts = [event for event in log.events if event.sequence]
    recorded = Recorded.of("run", facts, [(log.command, signed(log.command))])

    replayed = replay_run(recorded, tiny_task(), objects=bench.objects, clock=bench.clock.clock)

    assert replayed.diverged is None
    assert replayed.facts == len(facts)


def test_a_setting_that_does_not_exist_is_refused_as_ever(grow, stock):
    log = grow(stock, blueprint="BP999")

    assert log.bodies("command_rejected")[0].reason == "unknown_blueprint"


def test_all_that_the_sites_offer_is_wanted_once_and_the_likeliest_first(bench, stock, tiny_task):
    train(
        RunConfig(task="tiny", policy="random", epochs=1),
        tiny_task(),
        bench.world(library=stock),
        run_id="run",
    )

    (started,) = bench.log.bodies("run_started")
    assert stock.wanted == likely(started.sites)
    assert [each.blueprint_id for each in stock.wanted[:3]] == ["BP009", "BP062", "BP021"]
    assert len(set(stock.wanted)) == len(stock.wanted) == len(started.sites[0].options)  # both sites have one shape


def test_nothing_is_wanted_for_a_run_that_never_grows(bench, stock):
    bench.run(library=stock)

    assert stock.wanted == []


def test_kernels_are_for_hosts_that_compute_in_32_bits():
    assert computes_in_32_bits(torch.nn.Linear(2, 2))
    assert not computes_in_32_bits(torch.nn.Linear(2, 2).double())


def test_a_fact_and_the_object_store_are_enough_to_have_a_kernel_again(grow, stock):
    (attached,) = grow(stock, epochs=1).bodies("kernel_attached")

    again = recalled(stock.objects, attached)

    assert again is not None
    assert again.artifact_ref == attached.artifact_ref
    assert again == Verified(attached.artifact_ref, json.loads(stock.objects.get(attached.artifact_ref))["guard"])
    assert recalled(stock.objects, KernelAttached(form="eager")) is None
    trouble = "guard_mismatch: of BP009: other tensors"
    refused = recalled(stock.objects, KernelAttached(form="identity", trouble=trouble))
    assert refused == Unusable("guard_mismatch", "of BP009: other tensors")
    assert str(refused) == trouble


def test_a_kernel_that_is_gone_or_damaged_is_not_had_again(grow, stock):
    (attached,) = grow(stock, epochs=1).bodies("kernel_attached")
    digest = attached.artifact_ref.removeprefix("sha256:")
    (stock.objects.root / digest[:2] / digest[2:]).write_bytes(b"{}")

    with pytest.raises(CorruptState, match=f"kernel {attached.artifact_ref} of s1"):
        recalled(stock.objects, attached)
