"""mnist1d as two tasks of the growth table: its own split, hosts of the written sizes, no trace in random streams."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from esper.kasmina.sites import describe_sites
from tests.bench.m1d import m1d_cnn, m1d_mlp, signals


def size(host: nn.Module) -> int:
    return sum(parameter.numel() for parameter in host.parameters())


@pytest.mark.parametrize(("make", "width", "params"), [(m1d_mlp, 16, 1_098), (m1d_cnn, 8, 858)])
def test_a_signal_task_has_the_written_sizes_and_its_host_learns(make, width, params):
    task = make(width)
    host = task.make_host()
    task.loss(host(task.train.inputs[:8]), task.train.targets[:8]).backward()

    assert size(host) == params
    assert (len(task.train), len(task.probe), len(task.test)) == (3500, 500, 1000)
    assert all(parameter.grad is not None for parameter in host.parameters())
    assert all(host.get_submodule(site.module) is not None for site in task.sites)
    assert size(task.sized_host(6_000)) == pytest.approx(6_000, rel=0.05)


def test_making_signals_moves_no_random_stream_and_gives_the_same_every_time():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first, again = signals(), signals.__wrapped__()

    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert first.targets.bincount().tolist() == [500] * 10


@pytest.mark.parametrize(("make", "width", "units"), [(m1d_mlp, 16, [16, 16]), (m1d_cnn, 8, [8, 8, 8])])
def test_every_layer_of_a_signal_task_can_become_wider(make, width, units):
    task = make(width)
    described = describe_sites(task.make_host(), task.sites, task.train.inputs[:4], lambda _site: [])

    assert [site.width.units for site in described if site.HasField("width")] == units
