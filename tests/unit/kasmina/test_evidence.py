"""Site evidence against independent figures, and that it leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina import lifecycle
from esper.kasmina.candidates import TRIED, drawn
from esper.kasmina.kasmina import Kasmina
from esper.kasmina.passes import effective_rank
from esper.kasmina.settings import SeedSettings
from esper.kasmina.sites import Site, describe_sites

from .test_width_places import COMBINATIONS, described

cross_entropy = nn.functional.cross_entropy


def test_figures_are_those_of_the_definition(lab):
    """Gradients sample by sample, computed one forward at a time without any hook."""
    lab.epoch()
    first, _ = lab.kasmina.evidence(lambda: cross_entropy(lab.host(lab.probe_inputs), lab.probe_targets))
    host = lab.host.eval()
    norms, activations, squares = [], [], 0.0
    for x, y in zip(lab.probe_inputs, lab.probe_targets, strict=True):
        h = host.act(host.norm(host.first(x[None]))).detach().requires_grad_()
        loss = cross_entropy(host.last(torch.tanh(host.second(h))), y[None])
        (gradient,) = torch.autograd.grad(loss, h)
        norms.append(float(gradient.norm()))
        activations.append(float(h.detach().norm()))
        squares += float((gradient / 64).square().sum())
    assert first.seed_id == "s1"
    assert first.gradient_norm == pytest.approx(sum(norms) / 64, rel=1e-4)
    assert first.activation_norm == pytest.approx(sum(activations) / 64, rel=1e-4)
    assert first.descent == pytest.approx(squares, rel=1e-4)
    assert first.dead_fraction == 0.0
    assert 1.0 < first.activation_rank < 6.0


@pytest.mark.parametrize(("kind", "module"), [("vector", "2"), ("image", "0"), ("token", "1")])
def test_a_candidates_descent_is_the_squared_gradient_of_the_zero_weights_of_a_block_that_is_really_there(kind, module):
    """The block is written out and differentiated, weight by weight, by autograd."""
    torch.manual_seed(5)
    host = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), nn.Flatten(1), nn.Linear(36, 3))
    x, y = torch.randn(8, 1, 5, 5), torch.arange(8) % 3
    sites = describe_sites(host, [Site(module, kind)], x, lambda _: [])
    kasmina = Kasmina(host, sites, SeedSettings(), _never, steps_per_epoch=1, seed=0, monotonic=float)
    channels = sites[0].shape[1] if kind == "token" else sites[0].shape[0]
    tried = min(channels, TRIED)
    weights, biases = drawn("s1", tried, channels)
    outgoing = torch.zeros(channels, tried, requires_grad=True)

    def block(_site, _inputs, h):
        last = h.movedim(1, -1) if kind == "image" else h
        out = last + torch.relu(last @ weights.T + biases) @ outgoing.T
        return out.movedim(-1, 1) if kind == "image" else out

    handle = host.get_submodule(module).register_forward_hook(block)
    (gradient,) = torch.autograd.grad(cross_entropy(host(x), y), outgoing)
    handle.remove()
    evidence = kasmina.evidence(lambda: cross_entropy(host(x), y), candidates=True)[0]
    expected = channels / tried * float(gradient.square().sum())
    assert evidence.candidate_descent == pytest.approx(expected, rel=1e-4)
    assert evidence.candidate_descent > 0
    assert evidence == kasmina.evidence(lambda: cross_entropy(host(x), y), candidates=True)[0]


@pytest.mark.parametrize("units", [6, 12])
def test_a_wider_layers_candidate_is_that_of_a_network_that_is_really_wider(units):
    """The wider network is built from its parts, norm and dropout between included, and differentiated by autograd."""
    torch.manual_seed(5)
    host = nn.Sequential(
        *(nn.Linear(3, units), nn.BatchNorm1d(units), nn.Tanh(), nn.Dropout(0.5)),
        *(nn.Linear(units, 5), nn.ReLU(), nn.Linear(5, 2)),
    )
    x, y = torch.randn(16, 3), torch.arange(16) % 2
    host(x)  # running statistics
    wide = [Site("2", "vector"), Site("0", "vector", consumer="4"), Site("4", "vector", consumer="6")]
    sites = describe_sites(host, wide, x, lambda _: [])
    kasmina = Kasmina(host, sites, SeedSettings(), _never, steps_per_epoch=1, seed=0, monotonic=float)
    before, random_state = {k: v.clone() for k, v in host.state_dict().items()}, torch.get_rng_state()
    plain = kasmina.evidence(lambda: cross_entropy(host(x), y))
    depth, first, second = kasmina.evidence(lambda: cross_entropy(host(x), y), candidates=True)

    assert all(torch.equal(tensor, before[name]) for name, tensor in host.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all("forward" not in vars(module) for module in host.modules())
    tried = min(units, TRIED)
    weights, biases = drawn("s2", tried, 3)
    outgoing = torch.zeros(5, tried, requires_grad=True)
    host.eval()
    own = host[2](host[1](host[0](x)))
    new = torch.tanh((x @ weights.T + biases) / (1.0 + 1e-5) ** 0.5)
    loss = cross_entropy(host[6](torch.relu(host[4](own) + new @ outgoing.T)), y)
    (gradient,) = torch.autograd.grad(loss, outgoing)
    assert first.candidate_descent == pytest.approx(units / tried * float(gradient.square().sum()), rel=1e-4)
    assert min(depth.candidate_descent, second.candidate_descent) > 0
    for row, bare in zip((depth, first, second), plain, strict=True):
        for name in ("gradient_norm", "activation_norm", "activation_rank", "descent"):
            assert getattr(row, name) == pytest.approx(getattr(bare, name), rel=1e-4), (row.seed_id, name)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_candidate_can_be_tried_at_every_place_that_can_become_wider_and_changes_no_other_figure(name):
    host, x, kind = COMBINATIONS[name]()
    site = described(host, x, kind)
    kasmina = Kasmina(host, [site], SeedSettings(), _never, steps_per_epoch=1, seed=0, monotonic=float)

    def loss_fn(outputs, _targets):
        return outputs.square().mean()

    (plain,) = kasmina.evidence(lambda: loss_fn(host(x), x))
    (tried,) = kasmina.evidence(lambda: loss_fn(host(x), x), candidates=True)

    assert tried.candidate_descent > 0
    for figure in ("gradient_norm", "activation_norm", "activation_rank", "descent", "dead_fraction"):
        assert getattr(tried, figure) == pytest.approx(getattr(plain, figure), rel=1e-3)


def test_only_a_free_place_has_a_candidate(make_lab):
    lab = make_lab(SeedSettings(lifecycle="direct"))
    lab.germinate("residual")
    taken, free = lab.kasmina.evidence(
        lambda: cross_entropy(lab.host(lab.probe_inputs), lab.probe_targets), candidates=True
    )
    plain, _ = lab.kasmina.evidence(lambda: cross_entropy(lab.host(lab.probe_inputs), lab.probe_targets))
    assert not taken.HasField("candidate_descent")
    assert free.HasField("candidate_descent")
    assert plain == taken


@pytest.mark.parametrize("stage", [lifecycle.DORMANT, lifecycle.TRAINING, lifecycle.BLENDING])
def test_evidence_leaves_no_trace(make_lab, stage):
    lab = make_lab(SeedSettings(training_epochs=2))
    lab.epoch()
    if stage != lifecycle.DORMANT:
        lab.germinate("residual")
    lab.until(stage)
    lab.step()
    host = {name: tensor.clone() for name, tensor in lab.host.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in lab.host.parameters()]
    seeds = lab.kasmina.state_dict()
    random_state = torch.get_rng_state()
    flags = [module.training for module in lab.host.modules()]
    lab.kasmina.evidence(lambda: cross_entropy(lab.host(lab.probe_inputs), lab.probe_targets), candidates=True)
    assert all(torch.equal(tensor, host[name]) for name, tensor in lab.host.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(lab.host.parameters(), gradients, strict=True))
    after = lab.kasmina.state_dict()
    assert after["scalars"] == seeds["scalars"]
    assert all(torch.equal(tensor, after["tensors"][name]) for name, tensor in seeds["tensors"].items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in lab.host.modules()] == flags
    assert lab.hooks() == (stage == lifecycle.BLENDING)


def test_evidence_sees_the_seed_that_is_mixed_in(make_lab):
    lab = make_lab(SeedSettings(lifecycle="direct"))
    before = lab.kasmina.evidence(lambda: cross_entropy(lab.host(lab.probe_inputs), lab.probe_targets))[0]
    lab.germinate("negation")
    after = lab.kasmina.evidence(lambda: cross_entropy(lab.host(lab.probe_inputs), lab.probe_targets))[0]
    assert after.activation_norm == pytest.approx(5 * before.activation_norm, rel=1e-4)


def test_dead_channels_and_image_and_token_axes():
    """Two of four channels are constant; a module that works in place behind the site does not disturb it."""
    host = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(2), nn.Flatten(1), nn.Linear(36, 3))
    with torch.no_grad():
        host[0].weight[2:] = 0.0
    x, y = torch.randn(8, 1, 5, 5), torch.arange(8) % 3
    for module, kind in (("0", "image"), ("2", "token")):
        sites = describe_sites(host, [Site(module, kind)], x, lambda _: [])
        kasmina = Kasmina(host, sites, SeedSettings(), _never, steps_per_epoch=1, seed=0, monotonic=float)
        evidence = kasmina.evidence(lambda: cross_entropy(host(x), y))[0]
        assert evidence.gradient_norm > 0
        assert evidence.dead_fraction == (0.5 if kind == "image" else 0.0)


def _never(*_):
    raise AssertionError("nothing germinates here")


def test_a_host_without_sites_has_no_evidence(lab):
    kasmina = Kasmina(lab.host, [], SeedSettings(), _never, steps_per_epoch=1, seed=0, monotonic=float)
    assert kasmina.evidence(lambda: cross_entropy(lab.host(lab.probe_inputs), lab.probe_targets)) == []
    assert kasmina.observations() == []


def test_effective_rank():
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(500, 1, generator=generator, dtype=torch.float64) @ torch.ones(1, 5, dtype=torch.float64)
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-3)
    assert effective_rank(torch.randn(5000, 5, generator=generator, dtype=torch.float64)) == pytest.approx(5, abs=0.01)
    assert effective_rank(torch.ones(10, 3, dtype=torch.float64)) == 0.0
