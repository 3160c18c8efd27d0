"""Whole runs in memory: determinism, the control, what a run leaves behind."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.errors import InvalidInput, LogUnavailable
from esper.leyline import limits
from esper.leyline.envelope import body_name
from esper.testing import seed_command, signed
from esper.tolaria import checkpoint
from esper.tolaria.config import RunConfig
from esper.tolaria.random_streams import STREAMS, stream_seeds
from esper.tolaria.state_tree import digest, flatten
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
    flat, _, _ = checkpoint.load(bench.objects, ref)
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


def grow(bench, after: int, seed_id: str = "s1"):
    """A `should_stop` that never stops, and sends a germination after so many steps."""
    calls = iter(range(10**6))

    def watch() -> bool:
        if next(calls) == after:
            bench.log.send(signed(seed_command("run", GERMINATE, seed_id, "BP009", clock=bench.clock.clock)))
        return False

    return watch


def test_the_same_seed_twice_gives_the_same_digests(bench, second_bench, tiny_task) -> None:
    for each in (bench, second_bench):
        each.run(tiny_task(epochs=8), grow(each, after=4))
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
    second_bench.run(task, grow(second_bench, after=0))
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


def test_the_first_fact_says_everything_about_the_run(bench, tiny_task) -> None:
    bench.run(tiny_task(epochs=1), seed=9, control_of="grown")
    started = bench.log.bodies("run_started")[0]
    config = RunConfig.from_json(started.config_json)
    assert (config.epochs, config.batch_size, config.learning_rate, config.seed) == (1, 16, 1e-2, 9)
    assert set(started.seeds) == set(STREAMS)
    assert len(set(started.seeds.values())) == len(STREAMS)
    assert (started.control_of, started.lifecycle, started.policy) == ("grown", "full", "none")
    assert (started.train_samples, started.probe_samples, started.test_samples) == (64, 48, 48)
    assert [(site.site, site.seed_id, list(site.shape)) for site in started.sites] == [
        ("1", "s1", [6]),
        ("4", "s2", [6]),
    ]
    torch.manual_seed(stream_seeds(9)["init"])
    assert started.weights_digest == digest(flatten(tiny_task().make_host().state_dict())).root
    # Forward and backward of the three linear layers; the first needs no gradient of its input.
    assert started.flops_per_sample == 2 * (3 * (6 * 6 + 6 * 3) + 2 * 4 * 6)
    assert started.params_host == 4 * 6 + 6 + 6 * 6 + 6 + 6 * 3 + 3


def test_facts_are_one_gapless_sequence_that_ends_the_run(bench, tiny_task) -> None:
    result = bench.run(tiny_task(epochs=9), grow(bench, after=2), policy="heuristic")
    facts = [event for event in bench.log.events if event.sequence]
    assert [event.sequence for event in facts] == list(range(1, len(facts) + 1))
    assert body_name(facts[0]) == "run_started"
    assert body_name(facts[-1]) == "run_finished"
    assert all(event.run_id == "run" for event in bench.log.events)
    trainers = [event for event in bench.log.events if event.producer == "trainer"]
    assert result.events == len(trainers)
    assert result.seeds["germinated"] == bench.log.bodies("run_finished")[0].germinated >= 1
    assert json.loads(json.dumps(result.to_dict()))["run_id"] == "run"


def test_one_chain_of_ids_ties_a_growth_step_together(bench, tiny_task) -> None:
    bench.run(tiny_task(epochs=20), policy="heuristic")
    by_id = {event.event_id: event for event in bench.log.events}
    germinated = next(
        event
        for event in bench.log.events
        if body_name(event) == "seed_transitioned"
        and event.seed_transitioned.to_stage == leyline.SEED_LIFECYCLE_STAGE_BLENDING
    )
    walk = [germinated]
    while walk[-1].causation_id:
        walk.append(by_id[walk[-1].causation_id])
    assert [body_name(event) for event in walk] == [
        "seed_transitioned",
        "command_applied",
        "adaptation_command",
        "decision_made",
        "epoch_completed",
    ]
    packet = walk[-1].event_id
    assert {event.correlation_id for event in walk} == {packet}
    reports = [event for event in bench.log.events if body_name(event) == "field_report"]
    assert reports


def test_probe_figures_are_of_the_probe_set_and_test_is_looked_at_once(bench, tiny_task) -> None:
    """R-TOL-8: validation figures are measured, on their own set."""
    task = tiny_task(epochs=2)
    seen: list[int] = []
    plain = task.make_host

    def watched() -> nn.Module:
        host = plain()
        host.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].data_ptr()))
        return host

    result = bench.run(replace(task, make_host=watched))
    assert seen.count(task.test.inputs.data_ptr()) == 1
    assert seen[-1] == task.test.inputs.data_ptr()
    assert seen.count(task.probe.inputs.data_ptr()) == 2
    packets = bench.log.bodies("epoch_completed")
    assert packets[-1].state.validation_loss != pytest.approx(result.test_loss)
    assert list(packets[-1].probe_loss_history) == pytest.approx([each.state.validation_loss for each in packets])


def test_side_passes_and_probes_are_in_the_budget(bench, second_bench, tiny_task) -> None:
    task = tiny_task(epochs=3)
    plain = bench.run(task)
    grown = second_bench.run(task, grow(second_bench, after=0))
    started = bench.log.bodies("run_started")[0]
    assert plain.flops["training"] == started.flops_per_sample * 64 * 3
    assert plain.flops["side_pass"] == 0.0
    forward = 2 * (4 * 6 + 6 * 6 + 6 * 3)
    assert plain.flops["probe"] == forward * 48 * 3
    assert grown.flops["side_pass"] > 0.0
    assert grown.flops["probe"] > plain.flops["probe"]
    finished = second_bench.log.bodies("run_finished")[0]
    assert finished.flops == sum(grown.flops.values())


def test_checkpoints_are_pruned_to_the_newest_three_and_pruning_is_told(bench, tiny_task) -> None:
    bench.run(tiny_task(epochs=5))
    saved = [body.ref for body in bench.log.bodies("checkpoint_saved")]
    pruned = [body.ref for body in bench.log.bodies("checkpoint_pruned")]
    assert pruned == saved[:-3]
    assert [ref in bench.objects for ref in saved] == [False] * 3 + [True] * 3
    assert all(body.bytes_freed > 0 for body in bench.log.bodies("checkpoint_pruned"))


def test_all_checkpoints_can_be_kept(bench, tiny_task) -> None:
    bench.run(tiny_task(epochs=5), keep_checkpoints=0)
    assert all(body.ref in bench.objects for body in bench.log.bodies("checkpoint_saved"))
    assert bench.log.bodies("checkpoint_pruned") == []


def test_a_checkpoint_states_what_it_contains(bench) -> None:
    bench.run(keep_checkpoints=0)
    positions = {body.upto_sequence: body for body in bench.log.bodies("checkpoint_saved")}
    for event in bench.log.events:
        if event.sequence in positions:
            assert body_name(event) == "state_digested"
            assert event.state_digested.root == positions[event.sequence].state_digest


def test_asked_to_stop_it_ends_as_interrupted_with_its_last_epoch_kept(bench, tiny_task) -> None:
    calls = iter(range(100))
    result = bench.run(tiny_task(epochs=50), lambda: next(calls) == 6)
    assert (result.status, result.epochs) == ("interrupted", 1)
    assert bench.log.bodies("run_finished")[0].status == "interrupted"
    assert bench.log.bodies("checkpoint_saved")[-1].ref in bench.objects


def test_a_log_that_takes_nothing_ends_the_run_with_the_state_kept(bench, tiny_task) -> None:
    calls = iter(range(100))

    def close_later() -> bool:
        if next(calls) == 9:
            bench.log.close()
        return False

    with pytest.raises(LogUnavailable, match=r"run run stopped at step 12: step \d+ is kept as sha256:") as caught:
        bench.run(tiny_task(epochs=50), close_later)
    _, _, position = checkpoint.load(bench.objects, str(caught.value).rpartition(" ")[2])
    assert position.step == 8  # the newest state whose facts the log has


def test_what_a_model_raises_is_raised_on_once_the_history_has_it(bench, tiny_task) -> None:
    class Breaks(nn.Linear):
        calls = 0

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            Breaks.calls += 1
            if Breaks.calls == 20:
                raise RuntimeError("out of ideas\nand a second line")
            return super().forward(inputs)

    with pytest.raises(RuntimeError, match="out of ideas"):
        bench.run(tiny_task(make_host=lambda: Breaks(4, 3), sites=()))
    (end,) = bench.log.bodies("run_finished")
    assert (end.status, end.reason) == ("failed", "RuntimeError: out of ideas")
    assert math.isnan(end.test_accuracy)
    assert math.isnan(end.test_loss)


def test_a_model_that_raises_at_once_leaves_no_history(bench, tiny_task) -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        bench.run(tiny_task(make_host=lambda: nn.Linear(5, 3), sites=()))
    assert bench.log.events == []


def test_a_site_that_does_not_exist_lists_those_that_do(bench, tiny_task) -> None:
    with pytest.raises(InvalidInput, match=r"no site 'blocks\.9' in Sequential; it has 0, 1, 2"):
        bench.run(tiny_task(sites=(Site("blocks.9", "vector"),)))
    assert bench.log.events == []


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(bench, device: str) -> None:
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(InvalidInput, match=f"device '{device}' is"):
        bench.run(device=device)


def test_no_run_starts_where_more_than_all_memory_is_promised(bench, monkeypatch) -> None:
    """R-LEY-14."""
    monkeypatch.setattr(limits, "MEMORY", {**limits.MEMORY, "model": 0.41})
    with pytest.raises(InvalidInput, match=r"sum to 1\.010"):
        bench.run()
    assert bench.log.events == []


def test_steps_are_sampled_as_often_as_asked(bench, tiny_task) -> None:
    bench.run(tiny_task(epochs=3), telemetry_every_steps=5)
    steps = [event.global_step for event in bench.log.events if body_name(event) == "step_sampled"]
    assert steps == [5, 10]


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


@pytest.mark.parametrize("rate_policy", ["constant", "cosine", "warmup"])
def test_every_rate_policy_trains(bench, rate_policy: str) -> None:
    result = bench.run(rate_policy=rate_policy, optimizer="sgd")
    assert result.test_loss < 1.2


def test_publishing_costs_a_step_next_to_nothing(bench) -> None:
    """The trainer's own half of an enqueue: at most 50 µs is the architecture's limit for all of it."""
    from contracts.leyline.v1.event_pb2 import StepSampled
    from esper.tolaria.recorder import Recorder

    recorder = Recorder(bench.log, "run", bench.clock.clock)
    body = StepSampled(loss=1.0, gradient_norm=2.0)
    best = min(_timed(lambda: recorder.publish(body)) for _ in range(5))
    assert best < 50e-6


def _timed(call, count: int = 200) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count
