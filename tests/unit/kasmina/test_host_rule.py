"""R-KAS-16: what the host learns through the mix is explicit, and it is tested at three alphas for both rules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina import lifecycle
from esper.kasmina.settings import SeedSettings

UPSTREAM = ("first.weight", "norm.weight")
DOWNSTREAM = ("second.weight", "last.weight")


def gradients(make_lab, rule, alpha, blueprint="residual"):
    """The host's gradients of one step in BLENDING at `alpha`."""
    lab = make_lab(SeedSettings(training_epochs=1, host_rule=rule, harm_z=1e6), sites=("act",))
    lab.epoch()
    lab.germinate(blueprint)
    lab.until(lifecycle.BLENDING)
    lab.kasmina._slots["s1"].set_alpha(alpha)
    lab.optimizer.zero_grad()
    nn.functional.cross_entropy(lab.host(lab.inputs), lab.targets).backward()
    found = {name: parameter.grad for name, parameter in lab.host.named_parameters()}
    found["seed"] = next(iter(lab.kasmina.modules()["s1"].parameters())).grad
    return found


@pytest.mark.requirement("R-KAS-16")
@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("blueprint", ["residual", "plain"])
def test_host_learns_upstream_at_every_alpha(make_lab, alpha, blueprint):
    found = gradients(make_lab, "learns", alpha, blueprint)
    for name in (*UPSTREAM, *DOWNSTREAM, "seed"):
        assert float(found[name].abs().sum()) > 0, name


@pytest.mark.requirement("R-KAS-16")
@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("blueprint", ["residual", "plain"])
def test_strict_detach_gives_exactly_nothing_upstream(make_lab, alpha, blueprint):
    found = gradients(make_lab, "detached", alpha, blueprint)
    for name in UPSTREAM:
        assert found[name] is None or torch.count_nonzero(found[name]) == 0, name
    for name in (*DOWNSTREAM, "seed"):
        assert float(found[name].abs().sum()) > 0, name


def test_both_rules_give_the_same_output(make_lab):
    outputs = []
    for rule in ("learns", "detached"):
        lab = make_lab(SeedSettings(lifecycle="direct", host_rule=rule))
        lab.germinate("plain")
        lab.host.eval()
        outputs.append(lab.host(lab.inputs).detach())
    assert torch.equal(*outputs)
