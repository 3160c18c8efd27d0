"""What a run leaves behind: facts, the chain of their ids, figures, checkpoints, samples."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.leyline.envelope import body_name
from esper.tolaria.config import RunConfig
from esper.tolaria.data import STREAMS, stream_seeds
from esper.tolaria.state import digest, flatten


@pytest.mark.requirement("R-TOL-37")
def test_the_first_fact_says_everything_about_the_run(bench, tiny_task) -> None:
    bench.run(tiny_task(epochs=1), seed=9, control_of="grown")
    started = bench.log.bodies("run_started")[0]
    config = RunConfig.from_json(started.config_json)
    assert (config.epochs, config.batch_size, config.learning_rate, config.seed) == (1, 16, 1e-2, 9)
    assert set(started.seeds) == set(STREAMS)
    assert len(set(started.seeds.values())) == len(STREAMS)
    assert (started.control_of, started.lifecycle, started.policy) == ("grown", "careful", "none")
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
    result = bench.run(tiny_task(epochs=9), bench.growing(after=2), policy="heuristic")
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


@pytest.mark.requirement("R-TOL-8")
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


@pytest.mark.requirement("R-TOL-37")
def test_side_passes_and_probes_are_in_the_budget(bench, second_bench, tiny_task) -> None:
    task = tiny_task(epochs=3)
    plain = bench.run(task)
    grown = second_bench.run(task, second_bench.growing(after=0))
    started = bench.log.bodies("run_started")[0]
    assert plain.flops["training"] == started.flops_per_sample * 64 * 3
    assert plain.flops["side_pass"] == 0.0
    forward = 2 * (4 * 6 + 6 * 6 + 6 * 3)
    assert plain.flops["probe"] == forward * 48 * 3
    assert grown.flops["side_pass"] > 0.0
    assert grown.flops["probe"] > plain.flops["probe"]
    assert plain.flops["evidence"] == 0.0  # of a run that decides nothing
    finished = second_bench.log.bodies("run_finished")[0]
    assert finished.flops == sum(grown.flops.values())
    assert finished.probe_flops == grown.flops["probe"] + grown.flops["evidence"]
    packet = second_bench.log.bodies("epoch_completed")[-1]
    assert packet.flops_training == grown.flops["training"]
    assert packet.flops_measuring == sum(grown.flops.values()) - grown.flops["training"]


@pytest.mark.requirement("R-TOL-27")
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


def test_steps_are_sampled_as_often_as_asked(bench, tiny_task) -> None:
    bench.run(tiny_task(epochs=3), telemetry_every_steps=5)
    steps = [event.global_step for event in bench.log.events if body_name(event) == "step_sampled"]
    assert steps == [5, 10]


@pytest.mark.serial
def test_publishing_costs_a_step_next_to_nothing(bench) -> None:
    """The trainer's own half of an enqueue: at most 50 µs is the architecture's limit for all of it."""
    from contracts.leyline.v1.event_pb2 import StepSampled
    from esper.tolaria.world import Recorder

    recorder = Recorder(bench.world(), "run")
    body = StepSampled(loss=1.0, gradient_norm=2.0)
    best = min(_timed(lambda: recorder.publish(body)) for _ in range(5))
    assert best < 50e-6


def _timed(call, count: int = 200) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count
