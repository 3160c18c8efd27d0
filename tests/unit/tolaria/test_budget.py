"""How many parameters seeds may have: by the host, and by what the training set has answers for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from esper.kasmina.settings import SeedSettings
from esper.tolaria.budget import budget_of, numbers_fixed
from esper.tolaria.config import RunConfig, filled
from esper.tolaria.data import Samples

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("targets", "outputs", "fixed"),
    [
        (torch.zeros(40, dtype=torch.long), 5, 40 * 4),
        (torch.zeros(40, 5), 5, 40 * 5),
        (torch.zeros(40), 1, 40),
    ],
)
def test_what_targets_fix(tiny_task, targets, outputs, fixed) -> None:
    """A class target of five classes fixes four numbers: its probabilities sum to one."""
    task = tiny_task()
    task = replace(task, train=Samples(torch.zeros(40, 4), targets), steps_per_epoch=None, batch_size=4)
    host = nn.Linear(4, outputs)
    before = torch.get_rng_state()

    assert numbers_fixed(host, task, CPU) == fixed
    assert host.training
    assert torch.equal(torch.get_rng_state(), before)


def test_text_counts_every_position(tiny_task) -> None:
    class Net(nn.Module):
        def forward(self, tokens):
            return torch.zeros(*tokens.shape, 7)

    samples = Samples(torch.zeros(32, 6, dtype=torch.long), torch.zeros(32, 6, dtype=torch.long))
    task = replace(tiny_task(), train=samples, batch_size=4)
    assert numbers_fixed(Net(), task, CPU) == 32 * 6 * 6


@pytest.mark.parametrize(
    ("share", "fixed", "room"), [(0.0, 80, 48), (0.5, 80, 28), (0.5, 1000, 48), (0.1, 80, 0), (0.1, None, 48)]
)
def test_the_budget_is_the_smaller_of_the_two(share, fixed, room) -> None:
    """A host of twelve parameters."""
    config = RunConfig(growth_data_share=share, growth_budget_factor=4.0)

    assert budget_of(config, nn.Linear(4, 3, bias=False), fixed) == room


def test_a_host_without_room_is_not_measured_for_growth(bench, tiny_task) -> None:
    result = bench.run(tiny_task(), policy="heuristic", growth_data_share=1e-6, epochs=2)
    packets = bench.log.bodies("epoch_completed")

    assert result.flops["evidence"] == 0
    assert [(packet.params_budget, len(packet.evidence)) for packet in packets] == [(0, 0), (0, 0)]


def test_records_from_before_asked_nothing_of_the_data_and_had_no_patience() -> None:
    old = filled({"task": "digits", "seeds": {"training_epochs": 2}})

    assert (old["growth_data_share"], old["seeds"]["rules"]) == (0.0, 1)
    assert SeedSettings().rules == 2


@pytest.mark.parametrize(("lifecycle", "share", "factor"), [("swift", 0.5, 9.0), ("careful", 0.0, 4.0)])
def test_what_a_profile_has_where_nothing_is_said(lifecycle, share, factor) -> None:
    seeds = SeedSettings(lifecycle=lifecycle)
    config, said = RunConfig(seeds=seeds), RunConfig(seeds=seeds, growth_data_share=0.2, growth_budget_factor=1.0)

    assert (config.growth_data_share, config.growth_budget_factor) == (share, factor)
    assert (said.growth_data_share, said.growth_budget_factor) == (0.2, 1.0)
    assert RunConfig.from_json(config.to_json()) == config
