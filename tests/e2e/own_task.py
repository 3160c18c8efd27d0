"""A person's own task, for the tests that need one."""

from __future__ import annotations

import torch
from torch import nn

from esper.tolaria.tasks import Site, Task


def task() -> Task:
    """Two features decide over a class."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(600, 8, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    sites = (Site("1", "vector"),)

    def host() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))

    return Task.from_samples("mine", make_host=host, sites=sites, inputs=x, targets=y)
