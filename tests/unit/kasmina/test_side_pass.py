"""Ruling 7 and R-KAS-13 to R-KAS-15: the seed learns, and the host cannot tell that it is there, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina import lifecycle
from esper.kasmina.settings import SeedSettings

cross_entropy = nn.functional.cross_entropy


def fingerprint(lab):
    """Every bit that the host has: weights, running statistics, gradients, optimiser state, losses, random state."""
    tensors = list(lab.host.state_dict().values())
    tensors += [parameter.grad for parameter in lab.host.parameters()]
    host = {id(parameter) for parameter in lab.host.parameters()}
    for parameter, values in lab.optimizer.state.items():
        if id(parameter) in host:
            tensors += [value for value in values.values() if isinstance(value, torch.Tensor)]
    return [tensor.clone() for tensor in (*tensors, *lab.losses, torch.get_rng_state())]


def same(left, right):
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.requirement("R-KAS-14", "R-KAS-15")
@pytest.mark.parametrize("rule", ["side_pass", "straight_through"])
def test_host_is_bit_identical_to_one_without_the_seed(make_lab, rule):
    """Two seeds train for two epochs beside a host with dropout and batch norm: not one bit of the host moves."""
    settings = SeedSettings(training_epochs=50, training_rule=rule)
    plain = make_lab(settings)
    for _ in range(4):
        plain.epoch()
    alone = fingerprint(plain)
    grown = make_lab(settings)
    grown.epoch()
    grown.germinate("residual", "s1")
    grown.germinate("plain", "s2")
    for _ in range(3):
        grown.epoch()
    assert [grown.stage(s) for s in ("s1", "s2")] == [lifecycle.TRAINING] * 2
    assert same(fingerprint(grown), alone)
    started = grown.kasmina.state_dict()["tensors"]
    grown.epoch()
    learnt = grown.kasmina.state_dict()["tensors"]
    assert not torch.equal(started["s1.module.up.weight"], learnt["s1.module.up.weight"])
    assert not torch.equal(started["s2.module.weight"], learnt["s2.module.weight"])


@pytest.mark.requirement("R-KAS-13")
@pytest.mark.parametrize("stage", [lifecycle.DORMANT, lifecycle.GERMINATED, lifecycle.EMBARGOED, lifecycle.RESETTING])
def test_stages_outside_the_network_return_the_activations_untouched(make_lab, stage):
    """R-KAS-13: the host's output is the very same with Kasmina and without its hooks."""
    lab = make_lab()
    lab.epoch()
    if stage != lifecycle.DORMANT:
        lab.germinate("plain")
    if stage in (lifecycle.EMBARGOED, lifecycle.RESETTING):
        lab.until(lifecycle.TRAINING)
        lab.keep(lab.kasmina.apply(lab.command("CULL")))
        lab.until(stage)
    assert lab.stage() == stage
    assert lab.hooks() == 0
    lab.host.eval()
    expected = lab.host.last(torch.tanh(lab.host.second(lab.host.act(lab.host.norm(lab.host.first(lab.inputs))))))
    assert torch.equal(lab.host(lab.inputs), expected)


@pytest.mark.requirement("R-KAS-14")
def test_seed_gradient_is_that_of_the_mixed_network(lab):
    """The gradient equals the one of a network that has the seed at alpha 1 built in, computed independently."""
    lab.host.drop.p = 0.0
    lab.epoch()
    lab.germinate("plain")
    lab.step()
    seed = lab.kasmina.modules()["s1"]
    rows, targets = lab.inputs[:16], lab.targets[:16]
    result = lab.kasmina.side_pass(lambda: cross_entropy(lab.host(rows), targets))
    host = lab.host
    h = host.act(host.norm(host.first(rows))).detach()
    loss = cross_entropy(host.last(torch.tanh(host.second(seed(h)))), targets)
    expected = torch.autograd.grad(loss, list(seed.parameters()))
    assert result.loss == pytest.approx(float(loss.detach()), abs=1e-6)
    for parameter, gradient in zip(seed.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)
    assert result.gradient_norm > 0
    assert result.learnt


def test_side_pass_can_run_between_forward_and_backward(lab):
    """Buffers are copied, not restored in place, so a graph that is already built stays valid and unchanged."""
    lab.epoch()
    lab.germinate()
    lab.step()
    rows, targets = lab.inputs[:16], lab.targets[:16]
    state = torch.get_rng_state()
    statistics = lab.host.norm.running_mean.clone()
    loss = cross_entropy(lab.host(rows), targets)
    expected = torch.autograd.grad(loss, list(lab.host.parameters()))
    torch.set_rng_state(state)
    lab.host.norm.running_mean.copy_(statistics)
    loss = cross_entropy(lab.host(rows), targets)
    lab.kasmina.side_pass(lambda: cross_entropy(lab.host(rows), targets))
    lab.optimizer.zero_grad()
    loss.backward()
    gradients = [parameter.grad for parameter in lab.host.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


def test_several_seeds_take_turns(make_lab):
    lab = make_lab(SeedSettings(training_epochs=9))
    lab.germinate("residual", "s1")
    lab.germinate("plain", "s2")
    lab.step()
    turns = []
    for _ in range(4):
        result = lab.kasmina.side_pass(lambda: cross_entropy(lab.host(lab.inputs[:16]), lab.targets[:16]))
        turns.append(result.seed_id)
        holders = [
            seed_id
            for seed_id, module in lab.kasmina.modules().items()
            if any(parameter.grad is not None for parameter in module.parameters())
        ]
        assert holders == [result.seed_id]
    assert turns in (["s1", "s2"] * 2, ["s2", "s1"] * 2)


def test_no_seed_in_training_means_no_pass(lab):
    assert lab.kasmina.side_pass(lambda: cross_entropy(lab.host(lab.inputs[:16]), lab.targets[:16])) is None


def test_a_seed_that_is_mixed_in_is_a_bystander_of_anothers_side_pass(make_lab):
    """The other seed's running statistics, stream and gradients stay as they are."""
    lab = make_lab(SeedSettings(training_epochs=1))
    lab.germinate("residual", "s1")
    lab.until(lifecycle.BLENDING)
    lab.germinate("residual", "s2")
    lab.step()
    lab.optimizer.zero_grad()
    before = lab.kasmina.state_dict()["tensors"]
    result = lab.kasmina.side_pass(lambda: cross_entropy(lab.host(lab.inputs[:16]), lab.targets[:16]))
    after = lab.kasmina.state_dict()["tensors"]
    assert result.seed_id == "s2"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(name.startswith("s2.") for name in changed)
    assert "s2.stream.0" in changed
    assert "s2.module.norm.running_mean" in changed
    assert all(parameter.grad is None for parameter in lab.kasmina.modules()["s1"].parameters())


def test_a_loss_that_is_not_finite_teaches_nothing_and_fails_g1(make_lab):
    lab = make_lab(SeedSettings(training_epochs=1))
    lab.epoch()
    lab.germinate()
    lab.step()
    result = lab.kasmina.side_pass(lambda: lab.host(lab.inputs[:16]).sum() / 0.0)
    assert not result.learnt
    assert all(parameter.grad is None for parameter in lab.kasmina.modules()["s1"].parameters())
    lab.until(lifecycle.EMBARGOED)
    assert lab.gates()[-1] == ("G1_GRADIENT_HEALTH", False)
    assert "seed_loss_not_finite" in lab.told()


def test_seed_streams_do_not_move_the_hosts_dropout_while_blending(make_lab):
    """At the first step of BLENDING alpha is 0: with dropout in host and seed, the host's loss is the control's."""
    settings = SeedSettings(training_epochs=1)
    plain = make_lab(settings)
    for _ in range(3):
        plain.epoch()
    grown = make_lab(settings)
    grown.epoch()
    grown.germinate()
    grown.until(lifecycle.BLENDING)
    while len(grown.losses) < len(plain.losses):
        grown.step(len(grown.losses))
    first = 2 * grown.steps
    assert torch.equal(torch.stack(grown.losses[: first + 1]), torch.stack(plain.losses[: first + 1]))
    grown_state = torch.get_rng_state()
    plain = make_lab(settings)
    for _ in range(3):
        plain.epoch()
    assert torch.equal(torch.get_rng_state(), grown_state)
