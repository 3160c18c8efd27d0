"""R-KAS-24, R-KAS-25: a real leak is caught, three within 30 seconds end the seed, two do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.leyline.v1.event_pb2 import BreakerChanged
from esper.kasmina import lifecycle
from esper.kasmina.commands import CommandRefused
from esper.kasmina.isolation import Isolation, foreign_leaves, leak_size
from esper.kasmina.settings import SeedSettings

cross_entropy = nn.functional.cross_entropy


class Undetached(nn.Module):
    """A seed that takes its input from the host's live activation instead of the detached one that it is given."""

    def __init__(self, host):
        super().__init__()
        self.own = nn.Linear(6, 6)
        self.live = None
        self.leaking = True
        host.act.register_forward_pre_hook(self._remember)

    def _remember(self, _module, inputs):
        if inputs[0].requires_grad:
            self.live = inputs[0]

    def forward(self, h):
        if self.leaking and self.live is not None and self.live.shape == h.shape:
            h = torch.tanh(self.live)
        return self.own(h)


class Sharing(nn.Module):
    """A seed that uses a weight of the host without having it as a parameter."""

    def __init__(self, host):
        super().__init__()
        self.own = nn.Linear(6, 6)
        self._borrowed = [host.second.weight]

    def forward(self, h):
        return self.own(h) @ self._borrowed[0]


def leaky_lab(make_lab, kind, **settings):
    lab = make_lab(SeedSettings(training_epochs=50, **settings))
    lab.blueprints["injected"] = lambda: kind(lab.host)
    lab.epoch()
    lab.germinate("injected")
    lab.step()
    assert lab.stage() == lifecycle.TRAINING
    return lab


@pytest.mark.requirement("R-KAS-24")
@pytest.mark.parametrize("rule", ["side_pass", "straight_through"])
@pytest.mark.parametrize("kind", [Undetached, Sharing])
def test_three_leaks_within_the_window_cull_the_seed(make_lab, kind, rule):
    lab = leaky_lab(make_lab, kind, training_rule=rule)
    said = []
    for number in range(3):
        assert lab.stage() == lifecycle.TRAINING
        lab.clock.now += 14.0
        said = lab.step(number)
    assert lab.stage() == lifecycle.EMBARGOED
    breaker = next(fact for fact in said if isinstance(fact, BreakerChanged))
    assert (breaker.breaker, breaker.to_state) == ("gradient_isolation/s1", leyline.CIRCUIT_BREAKER_STATE_OPEN)
    assert lab.moves()[-2:] == ["CULLED", "EMBARGOED"]
    packet = next(p for p in lab.kasmina.drain_telemetry() if any(e.event_id == "isolation_breaker" for e in p.events))
    assert packet.level == leyline.TELEMETRY_LEVEL_CRITICAL
    assert packet.system_health.status == leyline.HEALTH_STATUS_UNHEALTHY
    assert lab.observe().isolation_violations == 3


@pytest.mark.requirement("R-KAS-24")
def test_two_leaks_do_not(make_lab):
    lab = leaky_lab(make_lab, Undetached, training_rule="straight_through")
    lab.step(1)
    lab.step(2)
    lab.kasmina.modules()["s1"].leaking = False
    for number in range(8):
        lab.step(number)
    assert lab.stage() == lifecycle.TRAINING
    assert lab.observe().isolation_violations == 2


def test_three_leaks_over_more_than_the_window_do_not(make_lab):
    lab = leaky_lab(make_lab, Undetached, training_rule="straight_through")
    for number in range(3):
        lab.clock.now += 15.1
        lab.step(number)
    assert lab.stage() == lifecycle.TRAINING
    assert lab.observe().isolation_violations == 3


@pytest.mark.parametrize("rule", ["side_pass", "straight_through"])
@pytest.mark.parametrize("kind", [Undetached, Sharing])
def test_the_host_never_feels_a_leak(make_lab, kind, rule):
    """R-KAS-15: its weights after leaking steps are bit for bit those of a host without the seed."""
    lab = leaky_lab(make_lab, kind, training_rule=rule)
    lab.step(1)
    lab.step(2)
    assert lab.observe().isolation_violations >= 2
    plain = make_lab(SeedSettings())
    plain.epoch()
    for number in (0, 1, 2):
        plain.step(number)
    for ours, theirs in zip(lab.host.parameters(), plain.host.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours.grad, theirs.grad)


def test_a_leaking_seed_learns_nothing_from_that_pass(make_lab):
    lab = leaky_lab(make_lab, Sharing)
    result = lab.kasmina.side_pass(lambda: cross_entropy(lab.host(lab.inputs[:16]), lab.targets[:16]))
    assert not result.learnt
    assert all(parameter.grad is None for parameter in lab.kasmina.modules()["s1"].parameters())


@pytest.mark.requirement("R-KAS-5")
def test_one_violation_fails_g1(make_lab):
    """R-KAS-5."""
    lab = make_lab(SeedSettings(training_epochs=1))
    lab.blueprints["injected"] = lambda: Sharing(lab.host)
    lab.epoch()
    lab.germinate("injected")
    lab.step()
    lab.step()
    lab.clock.now += 40
    lab.keep(lab.kasmina.end_epoch(lab.probe))
    assert lab.gates()[-1] == ("G1_GRADIENT_HEALTH", False)
    assert lab.stage() == lifecycle.EMBARGOED


def test_detached_blending_is_watched_too(make_lab):
    """Under the strict rule a live input in BLENDING is a leak; under host-learns it is how the host learns."""
    for rule, leaks in (("detached", True), ("learns", False)):
        lab = make_lab(SeedSettings(training_epochs=1, host_rule=rule, harm_z=1e6))
        lab.blueprints["injected"] = lambda lab=lab: Undetached(lab.host)
        lab.epoch()
        lab.germinate("injected")
        lab.step()
        lab.kasmina.modules()["s1"].leaking = False
        lab.until(lifecycle.BLENDING)
        lab.kasmina.modules()["s1"].leaking = True
        lab.step()
        assert (lab.observe().isolation_violations == 1) == leaks


@pytest.mark.requirement("R-KAS-28")
def test_a_shared_parameter_is_refused(make_lab):
    """Neither the host's nor another seed's; the refused module is not touched, so nothing of the host is frozen."""
    lab = make_lab()
    lab.epoch()
    lab.germinate("residual", "s1")
    for lent in (lab.host.second, lab.kasmina.modules()["s1"].down):
        lab.blueprints["injected"] = lambda lent=lent: lent
        with pytest.raises(CommandRefused, match="shared_parameters: injected shares 2 parameters"):
            lab.germinate("injected", "s2")
    assert lab.stage("s2") == lifecycle.DORMANT
    assert all(parameter.requires_grad for parameter in lab.host.parameters())


def test_a_parameter_that_is_shared_later_fails_g0(make_lab):
    lab = make_lab()
    lab.epoch()
    lab.germinate("residual")
    lab.kasmina.modules()["s1"].up = lab.host.second
    lab.step()
    assert lab.gates() == [("G0_SANITY", False)]
    assert lab.moves() == ["GERMINATED", "CULLED", "EMBARGOED"]


def test_the_scrub_closes_the_breaker(make_lab):
    lab = leaky_lab(make_lab, Undetached, training_rule="straight_through", embargo_epochs=1)
    for number in range(3):
        lab.step(number)
    lab.until(lifecycle.DORMANT)
    changes = [fact for fact in lab.facts if isinstance(fact, BreakerChanged)]
    assert [change.to_state for change in changes] == [
        leyline.CIRCUIT_BREAKER_STATE_OPEN,
        leyline.CIRCUIT_BREAKER_STATE_CLOSED,
    ]
    assert lab.observe().isolation_violations == 0


@pytest.mark.requirement("R-KAS-25")
def test_foreign_leaves_are_all_that_is_not_the_seeds_own():
    own, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    data = torch.ones(2, requires_grad=True)
    assert foreign_leaves(own * 2, [own]) == []
    assert {id(leaf) for leaf in foreign_leaves(own * other + data.exp(), [own])} == {id(other), id(data)}
    assert foreign_leaves(other, [own])[0] is other
    assert foreign_leaves((own * other).detach(), [own]) == []


@pytest.mark.requirement("R-KAS-15")
def test_a_leak_below_the_tolerance_is_none(clock):
    own, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    isolation = Isolation(SeedSettings(), clock)
    assert isolation.leaks(own * 2 + other * 1e-11, [own]) == 0.0
    assert isolation.leaks(own * 2 + other * 1e-9, [own]) == pytest.approx(1e-9)


def test_a_freed_graph_counts_as_a_leak():
    other = nn.Parameter(torch.ones(2))
    kept = other.exp()
    kept.sum().backward()
    assert leak_size(kept * 2, [other]) == float("inf")


def test_a_leak_counts_from_above_the_tolerance(clock):
    foreign = torch.ones(2, requires_grad=True)
    for tolerance, size in ((2.0, 0.0), (1.9, 2.0)):
        isolation = Isolation(SeedSettings(leak_tolerance=tolerance), clock)
        assert isolation.leaks(foreign * 1.0, []) == size
