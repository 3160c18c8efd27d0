"""The static arm: what grew, built in from the first step, trained for the FLOPs that growth took."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from contracts.leyline.v1.event_pb2 import SiteDescription, WidthPlace
from contracts.leyline.v1.leyline_pb2 import BLEND_MODE_CHANNEL, SEED_OPERATION_GERMINATE
from esper.errors import CorruptState, InvalidInput
from esper.kasmina.blending import Blend, blend_from
from esper.kasmina.grown import Grown
from esper.kasmina.lifecycle import BLENDING, DORMANT, FOSSILIZED, TRAINING
from esper.kasmina.settings import SeedSettings
from esper.kasmina.sites import Site
from esper.record import Recorded
from esper.testing import REAL_CLOCK, seed_command, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.grown import grown_network, unproven
from esper.tolaria.learning_rate import schedule, warmup_steps
from esper.tolaria.replay import replay_run
from esper.tolaria.state import load_checkpoint
from esper.tolaria.static import with_structure
from esper.tolaria.structure import Piece, structure_at, structure_of
from esper.tolaria.tasks.task import evaluate

DIRECT = SeedSettings(lifecycle="direct")
CPU = torch.device("cpu")


@pytest.fixture
def grown(bench):
    """A run of two seeds that are part of the network from the first step on, and its last checkpoint."""
    for seed_id, blueprint_id in (("s1", "BP009"), ("s2", "BP008")):
        command = seed_command("run", SEED_OPERATION_GERMINATE, seed_id, blueprint_id, clock=bench.clock.clock)
        bench.log.publish(command)
        bench.log.send(signed(command))
    result = bench.run(seeds=DIRECT, epochs=3)
    return result, bench.log.bodies("run_started")[0], bench.log.bodies("checkpoint_saved")[-1].ref


def test_a_checkpoint_tells_the_structure_without_its_tensors(bench, grown):
    _, started, ref = grown

    assert structure_at(bench.objects, ref, started.sites) == (
        Piece("s1", "BP009", {}, {"blend_mode": "convex"}),
        Piece("s2", "BP008", {}, {"blend_mode": "convex"}),
    )
    with pytest.raises(CorruptState, match="is no checkpoint"):
        structure_at(bench.objects, bench.objects.put(b'{"state": {}}'), started.sites)


def test_the_static_run_has_the_grown_shapes_and_spends_what_growth_took(bench, second_bench, grown, tiny_task):
    result, started, ref = grown
    spent = bench.log.bodies("run_finished")[0].flops
    structure = structure_at(bench.objects, ref, started.sites)
    static = second_bench.run(static_of="run", structure=structure, flops_budget=spent, rate_policy="cosine")

    per_epoch = static.flops["training"] / static.epochs
    assert static.params_final == result.params_final == static.params_host
    assert abs(static.flops["training"] - spent) <= per_epoch / 2  # its own probes are nothing that a static net needs
    assert static.seeds == {"germinated": 0, "fossilized": 0, "culled": 0}
    assert second_bench.log.bodies("run_started")[0].epochs == static.epochs

    recorded = Recorded.of("run", second_bench.log.events, [])
    replayed = replay_run(recorded, tiny_task(), objects=second_bench.objects, clock=REAL_CLOCK)
    assert replayed.diverged is None
    assert replayed.digests_checked > static.epochs


def test_a_static_net_begins_as_the_plain_host_computes(tiny_task):
    """Its seeds' last projections are zero, and its host is that of the grown run."""
    task, config = tiny_task(), RunConfig(structure=(Piece("s2", "BP009"),))
    torch.manual_seed(1)
    plain = task.make_host().eval()
    torch.manual_seed(1)
    static = with_structure(task, config, CPU, seed=3)
    built = static.make_host().eval()

    assert isinstance(built[4], Grown)
    assert torch.equal(built(task.train.inputs), plain(task.train.inputs))
    assert static.sites == ()
    assert with_structure(task, RunConfig(), CPU, seed=3) is task


def test_a_structure_that_the_host_cannot_have_is_refused(tiny_task):
    for piece, said in ((Piece("s9", "BP009"), "no seed 's9'"), (Piece("s1", "BP009", {"hidden": -1.0}), "hidden")):
        task = with_structure(tiny_task(), RunConfig(structure=(piece,)), CPU, seed=3)
        with pytest.raises(InvalidInput, match=f"the structure has BP009 at {piece.seed_id}: .*{said}"):
            task.make_host()


def test_only_a_structured_net_warms_up_under_cosine():
    """All its modules are new at once; a host alone takes its first step at the whole rate, as it always did."""
    assert warmup_steps("cosine", 1.0, 20, structured=False) == 0
    assert [warmup_steps(policy, 1.0, 20, structured=True) for policy in ("cosine", "wsd", "warmup")] == [20] * 3
    first, risen = (schedule("cosine", total_steps=100, warmup_steps=20, decay_share=0.8)(step) for step in (0, 20))
    assert first == pytest.approx(0.1)
    assert risen == schedule("cosine", total_steps=100, warmup_steps=0, decay_share=0.8)(20)


WIDE = (Site("1", "vector"), Site("4", "vector"), Site("0", "vector", consumer="3"))


@pytest.fixture
def widened(bench, tiny_task):
    """A run whose first hidden layer is widened twice, by half and by all of that, and a depth seed further on."""
    task = tiny_task(sites=WIDE)
    wanted = [("s3", "BP051", {"factor": 0.5}), ("s4", "BP051", {}), ("s2", "BP009", {})]
    for seed_id, blueprint_id, parameters in wanted:
        command = seed_command("run", SEED_OPERATION_GERMINATE, seed_id, blueprint_id, clock=bench.clock.clock)
        command.adaptation_command.seed_operation.parameters.update(parameters)
        bench.log.publish(command)
        bench.log.send(signed(command))
    result = bench.run(task, seeds=DIRECT, epochs=2)
    return task, result, bench.log.bodies("run_started")[0], bench.log.bodies("checkpoint_saved")[-1].ref


def test_a_layer_that_became_wider_is_one_plain_layer_in_both_nets(bench, widened):
    task, result, started, ref = widened
    structure = structure_at(bench.objects, ref, started.sites)
    flat, *_ = load_checkpoint(bench.objects, ref)
    config = RunConfig.from_json(started.config_json)
    network = grown_network(task, started.sites, config, flat)
    static = with_structure(task, replace(config, structure=structure), CPU, seed=3).make_host()

    assert bench.log.bodies("command_rejected") == []
    assert [(piece.seed_id, piece.parameters) for piece in structure] == [
        ("s3", {"factor": 0.5}), ("s4", {"factor": 1.0}), ("s2", {})
    ]  # fmt: skip
    for net in (network, static):
        assert (type(net[0]), net[0].out_features, net[3].in_features) == (nn.Linear, 18, 18)
        assert "forward" not in vars(net[0])
        assert sum(each.numel() for each in net.parameters()) == result.params_final
    assert evaluate(network, task, task.test).loss.mean == result.test_loss
    assert float(static[3].weight.detach().abs().min()) > 0.0  # as PyTorch begins a layer of that width, not with zeros


def test_a_width_seed_that_is_blended_is_part_of_the_layer_as_strong_as_it_is(bench, tiny_task):
    task = tiny_task(sites=WIDE)
    command = seed_command("run", SEED_OPERATION_GERMINATE, "s3", "BP051", clock=bench.clock.clock)
    bench.log.publish(command)
    bench.log.send(signed(command))
    result = bench.run(task, seeds=SeedSettings(lifecycle="careful", training_epochs=1, blend_epochs=3), epochs=3)
    flat, *_ = load_checkpoint(bench.objects, bench.log.bodies("checkpoint_saved")[-1].ref)
    started = bench.log.bodies("run_started")[0]
    network = grown_network(task, started.sites, RunConfig.from_json(started.config_json), flat)

    assert bench.log.bodies("command_rejected") == []
    assert [each.split(",")[:2] for each in unproven(flat)] == [["s3: BP051", " BLENDING"]]
    assert network[0].out_features == 12
    assert evaluate(network, task, task.test).loss.mean == result.test_loss


def slot(stage: int, blend: Blend | None = None, **more: object) -> dict[str, object]:
    seed = {"blueprint_id": "BP009", "parameters": {"hidden": 2.0}, "blend": vars_of(blend or Blend())}
    return {"stage": stage, "seed": None if stage == DORMANT else seed, **more}


def vars_of(blend: Blend) -> dict[str, object]:
    return json.loads(json.dumps({name: getattr(blend, name) for name in Blend.__slots__}))


def test_what_the_host_absorbed_comes_first_and_what_only_learns_is_left_out():
    """s1 became wider by half, then again by all of that at the slot that opened there."""
    sites = [SiteDescription(seed_id="s1", width=WidthPlace(units=4)), SiteDescription(seed_id="s2")]
    absorbed = {"stage": FOSSILIZED, "seed": None, "absorbed": "BP051"}
    slots = {"s1": absorbed, "s2": slot(BLENDING), "s3": absorbed, "s4": slot(DORMANT)}
    found = structure_of({"slots": slots, "absorbed": [["s1", 2], ["s3", 6]]}, sites)

    assert found == (
        Piece("s1", "BP051", {"factor": 0.5}),
        Piece("s3", "BP051", {"factor": 1.0}),
        Piece("s2", "BP009", {"hidden": 2.0}, {"blend_mode": "convex"}),
    )
    assert structure_of({"slots": {"s1": slot(TRAINING)}}, sites) == ()


@pytest.mark.parametrize(
    "blend",
    [
        Blend(),
        Blend(mode=BLEND_MODE_CHANNEL, channel=(0.5, 1.0)),
        replace(blend_from({"blend_mode": "confidence"}, 1), k=5.0, tau=0.25, lo=0.125, hi=0.5, logits=True),
    ],
    ids=["convex", "channel", "confidence"],
)
def test_a_seed_is_blended_as_it_was(blend):
    (piece,) = structure_of({"slots": {"s1": slot(FOSSILIZED, blend)}}, [SiteDescription(seed_id="s1")])

    assert blend_from(piece.annotations, 0) == blend


def test_a_configuration_with_a_structure_is_read_back_and_a_strangers_is_refused():
    config = RunConfig(structure=(Piece("s1", "BP009", {"hidden": 2.0}),), static_of="k3f9", flops_budget=1e9)

    assert RunConfig.from_json(config.to_json()) == config
    for wrong in ([3], [{"seed_id": "s1"}], [{"seed_id": "s1", "blueprint_id": "BP009", "parameters": {"a": "x"}}]):
        with pytest.raises(InvalidInput, match="the configuration's structure cannot be read"):
            RunConfig.from_json(json.dumps({"structure": wrong}))
    with pytest.raises(InvalidInput, match="structure is None; it must be a list"):
        RunConfig.from_json('{"structure": null}')
    with pytest.raises(InvalidInput, match="seeds is None; it must be an object"):
        RunConfig.from_json('{"seeds": null}')
