"""What a run measures stays within its share of the FLOPs, on the same samples all along, and in its control run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from esper.kasmina.settings import SeedSettings
from esper.tolaria.measuring import LEAST_EVIDENCE, LEAST_PROBE, PROBES_PER_EPOCH, Costs, chosen, sizes
from esper.tolaria.tasks import Samples, load_task

forward = st.floats(1e2, 1e9)


@given(
    forward=forward,
    backward=st.floats(1.5, 3.0),
    candidates=st.floats(1.5, 6.0),
    trained=st.integers(1_400, 60_000),
    batch_size=st.integers(1, 256),
    probe_set=st.integers(1, 20_000),
    share=st.floats(0.1, 0.5),
)
def test_a_probe_and_its_evidence_stay_within_the_share(
    forward, backward, candidates, trained, batch_size, probe_set, share
) -> None:
    costs = Costs(forward * backward, forward, forward * candidates)
    found = sizes(share, costs, trained=trained, batch_size=batch_size, probe_set=probe_set)
    spent = PROBES_PER_EPOCH * found.probe * costs.forward + found.evidence * costs.evidence

    assert spent <= share * trained * costs.training * (1 + 1e-9)
    assert min(LEAST_PROBE, probe_set) <= found.probe <= probe_set
    assert min(LEAST_EVIDENCE, batch_size, probe_set) <= found.evidence <= min(batch_size, probe_set)
    assert found.probe == probe_set or spent + 2 * costs.forward > share * trained * costs.training  # the largest


def test_a_run_of_few_samples_measures_the_least_that_says_something() -> None:
    assert sizes(0.1, Costs(3, 1, 2), trained=64, batch_size=32, probe_set=200).probe == LEAST_PROBE
    assert sizes(0.1, Costs(3, 1, 2), trained=64, batch_size=32, probe_set=200).evidence == LEAST_EVIDENCE


def test_without_a_share_all_is_measured_as_before() -> None:
    found = sizes(None, Costs(3, 1, 2), trained=64, batch_size=32, probe_set=1_000)

    assert (found.probe, found.evidence) == (1_000, 256)


def test_the_chosen_part_is_the_same_for_the_same_seed() -> None:
    samples = Samples(torch.arange(100.0), torch.arange(100))
    part, again, other = (chosen(samples, 30, seed) for seed in (7, 7, 8))

    assert torch.equal(part.targets, again.targets)
    assert not torch.equal(part.targets, other.targets)
    assert torch.equal(part.targets, part.targets.unique())  # each once, in their order
    assert chosen(samples, 100, 7) is samples


def test_probe_figures_are_of_one_part_in_the_grown_run_and_in_its_control(bench, second_bench, tiny_task) -> None:
    """Of 96 samples 64 are measured: the same ones at the end of every epoch, whatever the run grows."""
    task = tiny_task(epochs=6)
    twice = Samples(*(torch.cat([each, each + 1]) for each in (task.probe.inputs, task.probe.targets % 2)))
    seen: list[list[torch.Tensor]] = []

    def watched() -> nn.Module:
        host, mine = task.make_host(), []
        host.register_forward_pre_hook(lambda module, given: None if module.training else mine.append(given[0].clone()))
        seen.append(mine)
        return host

    wide = replace(task, probe=twice, make_host=watched)
    control = bench.run(wide)
    grown = second_bench.run(wide, second_bench.growing(after=8), policy="heuristic")
    probes = [[each for each in mine if len(each) == LEAST_PROBE] for mine in seen]
    losses = [[each.state.validation_loss for each in b.log.bodies("epoch_completed")] for b in (bench, second_bench)]

    assert grown.seeds["germinated"] > 0 == control.seeds["germinated"]
    assert len(probes[0]) == 6 < len(probes[1])
    assert all(torch.equal(each, probes[0][0]) for mine in probes for each in mine)
    assert losses[0][:2] == losses[1][:2] != losses[1][2:4]
    assert bench.log.bodies("run_started")[0].probe_samples == LEAST_PROBE


@pytest.mark.parametrize(
    ("name", "least", "lifecycle"), [("digits", 100, "swift"), ("spirals", 64, "direct"), ("tabn", 64, "swift")]
)
def test_a_run_of_a_built_in_task_stays_within_a_tenth(bench, name, least, lifecycle) -> None:
    """Counted, with a seed that comes meanwhile, and its proof; a tenth of what the steps took."""
    comes = bench.growing(after=8, blueprint_id="BP062")
    seeds = SeedSettings(lifecycle=lifecycle, proof_epochs=2)
    result = bench.run(load_task(name), comes, epochs=5, policy="heuristic", seeds=seeds)
    started = bench.log.bodies("run_started")[0]

    assert len(bench.log.bodies("kernel_attached")) > 0
    assert result.flops["side_pass"] == 0 < result.flops["evidence"]
    assert 0 < result.flops["probe"] + result.flops["evidence"] <= 0.1 * result.flops["training"]
    assert started.probe_samples >= least


def test_a_trial_costs_what_the_network_with_the_seed_costs(bench, tiny_task) -> None:
    """Two epochs' probes, the trial of the seed that has trained in them, and the network once it is mixed in."""
    grown = bench.run(tiny_task(epochs=2), bench.growing(after=0), seeds=SeedSettings(harm_z=1e3, max_output_ratio=1e6))
    (attached,) = bench.log.bodies("kernel_attached")
    forward, seed = 2 * (4 * 6 + 6 * 6 + 6 * 3), attached.flops_per_sample

    assert grown.fates["s1"]["stage"] == "BLENDING"
    assert seed > 0
    assert grown.flops["probe"] == 48 * (forward + forward + (forward + seed) + (forward + seed))
