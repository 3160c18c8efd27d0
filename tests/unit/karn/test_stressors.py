"""The stressors misbehave as they say, within the bounds that they say, and inside a quarantine drill only."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.errors import InvalidInput
from esper.karn.approval import Approval, Clearance
from esper.karn.blueprint import ALL_KINDS
from esper.karn.catalogue import DEFAULT_POOL, SAFE_POOL, build, options
from esper.karn.table import CATALOGUE
from esper.karn.templates.stressors import LEAK_CEILING, MIB

STRESSORS = [blueprint.blueprint_id for blueprint in CATALOGUE.values() if blueprint.quarantine_only]
SHAPES = {"vector": (8,), "image": (3, 6, 6), "token": (10, 8)}
BATCH = 6
APPROVED = {name: Approval("a tester", "to see it misbehave") for name in CATALOGUE}
DRILL = Clearance(APPROVED, drill=True)


def site(kind="vector") -> SiteDescription:
    return SiteDescription(site="trunk.0", seed_id="s1", shape_kind=kind, shape=SHAPES[kind])


def stressor(blueprint_id, kind="vector", **settings):
    return build(blueprint_id, site(kind), settings, torch.Generator().manual_seed(1), clearance=DRILL)


def activation(kind="vector"):
    return torch.randn((BATCH, *SHAPES[kind]), generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def own_stream():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("blueprint_id", STRESSORS)
@pytest.mark.parametrize(
    "clearance",
    [Clearance(), Clearance(APPROVED), Clearance({}, drill=True)],
    ids=["nothing", "an approval alone", "a drill alone"],
)
def test_only_a_drill_with_an_approval_reaches_a_stressor(blueprint_id, clearance):
    with pytest.raises(InvalidInput, match=r"quarantine drill only|not approved"):
        build(blueprint_id, site(), {}, torch.Generator(), clearance=clearance)
    with pytest.raises(InvalidInput, match=r"quarantine drill only|not approved"):
        options(site(), pool=[blueprint_id], clearance=clearance)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_no_pool_holds_one_and_no_clearance_makes_a_site_offer_one_unasked(kind):
    assert not {*DEFAULT_POOL, *SAFE_POOL} & {name for name, b in CATALOGUE.items() if b.approval_required}
    offered = {option.blueprint_id for option in options(site(kind), clearance=DRILL)}
    assert offered <= set(SAFE_POOL)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("blueprint_id", STRESSORS)
def test_it_keeps_the_shape_learns_and_ends(blueprint_id, kind):
    """Every stressor passes for a seed: what it does to gradients, numbers, time or memory is another matter."""
    module = stressor(blueprint_id, kind)
    assert not module.residual
    (option,) = options(site(kind), pool=[blueprint_id], clearance=DRILL)
    assert option.parameters == sum(parameter.numel() for parameter in module.parameters()) > 0
    threads = threading.active_count()
    h = activation(kind).requires_grad_()
    started = time.monotonic()
    s = module(h)
    (torch.nan_to_num(s) - 1.0).square().mean().backward()
    assert time.monotonic() - started < 5.0
    assert s.shape == h.shape
    assert threading.active_count() == threads
    assert h.grad is not None
    assert torch.isfinite(h.grad).all()
    for parameter in module.parameters():
        assert parameter.grad is not None


def gradient_ratio(module) -> float:
    h = activation().requires_grad_()
    module(h).sum().backward()
    return float(h.grad.mean())


@pytest.mark.parametrize("scale", [5.0, 20.0])
def test_exploding_gradient_multiplies_by_the_sixth_power(scale):
    module = stressor("BP043", scale=scale)
    assert torch.equal(module(activation()), activation())
    assert gradient_ratio(module) == pytest.approx(scale**6)
    assert torch.isfinite(module.learnt.weight.grad).all()


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.1])
def test_vanishing_gradient_leaves_at_most_a_millionth(decay):
    module = stressor("BP044", decay=decay)
    assert torch.equal(module(activation()), activation())
    assert gradient_ratio(module) == pytest.approx(decay**6)
    assert float(module.learnt.weight.grad.abs().max()) <= 1e-6 * float(activation().abs().sum())


@pytest.mark.parametrize("frequency", [0.01, 0.1])
def test_nan_injection_spoils_that_share_of_passes_by_one_number(frequency):
    module = stressor("BP045", frequency=frequency)
    h = activation()
    spoilt = [int(torch.isnan(module(h)).sum()) for _ in range(1500)]
    assert set(spoilt) == {0, 1}
    assert sum(spoilt) / len(spoilt) == pytest.approx(frequency, rel=0.5)


def test_a_nan_from_it_reaches_the_loss_and_every_gradient():
    module = stressor("BP045", frequency=0.1)
    for _ in range(200):
        loss = module(activation()).square().mean()
        if not torch.isfinite(loss):
            break
    assert torch.isnan(loss)
    loss.backward()
    assert torch.isnan(module.learnt.weight.grad).any()


@pytest.mark.serial
def test_infinite_loop_takes_time_in_proportion_and_comes_back():
    took = {}
    for iterations in (1000, 10000):
        module = stressor("BP046", iterations=iterations)
        module(activation())
        started = time.process_time()
        assert torch.equal(module(activation()), activation())
        took[iterations] = time.process_time() - started
    assert took[10000] > 3 * took[1000]
    assert took[10000] < 2.0


def test_memory_leak_grows_to_its_ceiling_and_gives_all_back():
    module = stressor("BP047", growth_rate=5.0)
    for passes in range(1, 4):
        module(activation())
        assert module.leaked == passes * 5 * MIB
    for _ in range(LEAK_CEILING // (5 * MIB) + 2):
        module(activation())
    assert module.leaked == LEAK_CEILING
    assert module.state_dict().keys() == {"learnt.weight", "learnt.bias"}
    assert "kept" in vars(module)
    module.kept.clear()
    assert module.leaked == 0


@pytest.mark.serial
@pytest.mark.parametrize("threads", [2, 16])
def test_deadlock_starves_every_thread_and_gives_up(threads):
    module = stressor("BP048", threads=threads)
    started = time.monotonic()
    assert torch.equal(module(activation()), activation())
    took = time.monotonic() - started
    assert module.given_up == threads
    assert 0.05 <= took < 2.0
    module(activation())
    assert module.given_up == 2 * threads


@pytest.mark.parametrize("window_ns", [10.0, 1000.0])
def test_race_condition_loses_updates(window_ns):
    module = stressor("BP049", window_ns=window_ns)
    h = activation()
    factors = [(module(h) / h).detach() for _ in range(10)]
    assert min(float(each.mean()) for each in factors) < 0.99
    assert all(float(each.min()) > 0.24 and float(each.max()) <= 1.0 + 1e-6 for each in factors)
    assert len({tuple(each[0].tolist()) for each in factors}) > 1, "ten passes, and all lost the same updates"


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_adversarial_noise_turns_against_the_loss_within_its_bound(epsilon):
    module = stressor("BP050", epsilon=epsilon)
    h = activation()
    target = h + 0.1
    bound = epsilon * float(h.square().mean().sqrt())
    (module(h) - target).square().mean().backward()
    upwards = (h - target).square().mean()
    disturbed = module(h)
    torch.testing.assert_close((disturbed - h).abs(), torch.full_like(h, bound))
    assert (disturbed - target).square().mean() > upwards
    # The direction is a state of training: a pass in evaluation takes it as it is and leaves it there.
    kept = module.direction.clone()
    module.eval()
    (module(h) + target).square().mean().backward()
    assert torch.equal(module.direction, kept)
