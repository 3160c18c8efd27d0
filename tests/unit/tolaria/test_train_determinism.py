"""Whole runs in memory: the same bits from the same seed, and from the bare loop where nothing grows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.tolaria.data import stream_seeds
from esper.tolaria.state import load_checkpoint
from esper.tolaria.tasks import Site, load_task

GERMINATE = leyline.SEED_OPERATION_GERMINATE


def bare_loop(task, seed: int, epochs: int) -> list[dict[str, torch.Tensor]]:
    """What a person would write without Esper, on the same streams; the weights after every epoch."""
    seeds = stream_seeds(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds["init"])
        host = task.make_host()
        optimizer = torch.optim.AdamW(host.parameters(), lr=task.learning_rate, weight_decay=0.01, fused=True)
        data = torch.Generator().manual_seed(seeds["data"])
        torch.manual_seed(seeds["dropout"])
        kept = []
        steps = task.steps(task.batch_size)
        for _ in range(epochs):
            host.train()
            order = torch.randperm(len(task.train), generator=data)[: steps * task.batch_size]
            for batch in order.view(steps, task.batch_size):
                optimizer.zero_grad()
                task.loss(host(task.train.inputs[batch]), task.train.targets[batch]).backward()
                nn.utils.clip_grad_norm_(host.parameters(), 10.0)
                optimizer.step()
            kept.append({name: tensor.clone() for name, tensor in host.state_dict().items()})
        return kept


def weights_of(bench, ref: str) -> dict[str, torch.Tensor]:
    flat, _, _ = load_checkpoint(bench.objects, ref)
    return {name.removeprefix("host/"): each for name, each in flat.tensors.items() if name.startswith("host/")}


@pytest.mark.parametrize("name", ["tiny", "digits", "chars"])
def test_a_run_that_grows_nothing_is_the_bare_loop_bit_for_bit(bench, tiny_task, name: str) -> None:
    """Probing, digests, telemetry and FLOP counting leave no trace in what is learnt."""
    task = tiny_task() if name == "tiny" else replace(load_task(name), steps_per_epoch=12)
    epochs = 4 if name == "tiny" else 1
    bench.run(task, epochs=epochs, keep_checkpoints=0, seed=3)
    saved = bench.log.bodies("checkpoint_saved")[1:]
    for expected, body in zip(bare_loop(task, 3, epochs), saved, strict=True):
        found = weights_of(bench, body.ref)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_same_seed_twice_gives_the_same_digests(bench, second_bench, tiny_task) -> None:
    for each in (bench, second_bench):
        each.run(tiny_task(epochs=8), each.growing(after=4))
    assert len(bench.digests()) == 8
    assert bench.digests() == second_bench.digests()
    assert bench.digests("transition") == second_bench.digests("transition") != []


def test_another_seed_gives_other_digests(bench, second_bench) -> None:
    bench.run(seed=1, epochs=1)
    second_bench.run(seed=2, epochs=1)
    assert bench.digests() != second_bench.digests()


def test_deciding_for_nothing_is_the_control_bit_for_bit(bench, second_bench, tiny_task) -> None:
    """A policy that looks at evidence every epoch and never germinates must not move the run (ruling 10)."""
    task = tiny_task()
    bench.run(task, policy="none")
    # Without a parameter to spend, the heuristic can only decide for nothing.
    second_bench.run(task, policy="heuristic", growth_budget_factor=0.0)
    assert [made.action for made in second_bench.log.bodies("decision_made")] == [0] * 4
    host = [weights_of(each, each.log.bodies("checkpoint_saved")[-1].ref) for each in (bench, second_bench)]
    assert all(torch.equal(host[0][name], host[1][name]) for name in host[0])


def test_a_seed_in_training_leaves_the_host_as_the_control_has_it(bench, second_bench, tiny_task) -> None:
    task = tiny_task(epochs=2)
    bench.run(task)
    second_bench.run(task, second_bench.growing(after=0))
    stages = [body.to_stage for body in second_bench.log.bodies("seed_transitioned")]
    assert stages[:2] == [leyline.SEED_LIFECYCLE_STAGE_GERMINATED, leyline.SEED_LIFECYCLE_STAGE_TRAINING]
    first = [each.log.bodies("epoch_completed")[0].state for each in (bench, second_bench)]
    assert first[0].training_loss == first[1].training_loss
    assert first[0].validation_loss == first[1].validation_loss


def test_the_callers_random_stream_is_untouched(bench) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    bench.run(epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_microbatches_train_the_same_network_to_rounding(bench, second_bench, tiny_task) -> None:
    task = tiny_task(
        make_host=lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), sites=(Site("1", "vector"),)
    )
    results = [bench.run(task), second_bench.run(task, microbatches=4)]
    assert results[0].test_loss == pytest.approx(results[1].test_loss, rel=1e-4)
    assert bench.digests() != second_bench.digests()


def test_pcgrad_is_reproducible(bench, second_bench, tiny_task) -> None:
    for each in (bench, second_bench):
        each.run(tiny_task(epochs=2), microbatches=4, pcgrad=True)
    assert bench.digests() == second_bench.digests()
    metrics = {point.name: point.value for body in bench.log.bodies("telemetry_packet") for point in body.metrics}
    assert metrics["tolaria.grad_agg.conflicts"] > 0


@pytest.mark.parametrize("rate_policy", ["constant", "cosine", "warmup", "wsd"])
def test_every_rate_policy_trains(bench, rate_policy: str) -> None:
    result = bench.run(rate_policy=rate_policy, optimizer="sgd")
    assert result.test_loss < 1.2
