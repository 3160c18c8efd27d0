"""A kernel's parts in this process, without the compiler: weights, guard, times, comparison, and what is permitted."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from esper.errors import InvalidInput
from esper.karn.blueprint import Blueprint, SiteShape
from esper.karn.table import CATALOGUE
from esper.tezzeret import child, kernel
from esper.tezzeret.results import guard_digest, order_of, read_report
from esper.tezzeret.scan import refusal, requests


@pytest.fixture
def order(story):
    return order_of(story.job, "emergency", 2**30, approved=False)


def ticking(step_s=0.001):
    """A clock that moves by itself, one step at every look."""
    ticks = count()
    return lambda: next(ticks) * step_s


def test_the_same_job_draws_the_same_weights(order):
    weights = kernel.weights_of(kernel.make(order))

    assert kernel.weights_of(kernel.make(order)) == weights
    module = kernel.make(replace(order, job_id="another"))
    assert kernel.weights_of(module) != weights
    module.load_state_dict(safetensors.torch.load(weights), strict=True)
    assert kernel.weights_of(module) == weights


def test_a_template_without_weights_is_a_kernel_too(order):
    module = kernel.make(replace(order, blueprint_id="BP001", parameters={}))

    assert safetensors.torch.load(kernel.weights_of(module)) == {}
    assert [entry["role"] for entry in kernel.guard_of(module, (8,))] == ["input", "output"]


def test_the_guard_says_what_must_hold(order):
    guard = kernel.guard_of(kernel.make(order), (8,))
    sent, returned, *state = guard

    assert (sent["shape"], sent["dtype"], sent["stride"]) == (["batch", 8], "float32", [8, 1])
    assert returned["shape"] == sent["shape"]
    assert [entry["name"] for entry in state] == sorted(kernel.make(order).state_dict())
    assert all(entry["requires_grad"] for entry in state)
    assert guard_digest(guard) == guard_digest(kernel.guard_of(kernel.make(order), (8,)))
    assert guard_digest(guard) != guard_digest(kernel.guard_of(kernel.make(order), (9,)))


@pytest.mark.requirement("R-TEZ-20")
def test_warming_measures_every_batch_size(order):
    """R-TEZ-20."""
    warm = kernel.prewarm(kernel.make(order), (8,), ticking())

    assert [each.batch for each in warm] == list(kernel.BATCHES)
    assert [each.samples for each in warm] == [kernel.SAMPLES] * len(warm)
    assert all(each.p50_ms == pytest.approx(1.0) for each in warm)


def test_a_slow_kernel_is_measured_three_times_at_least(order):
    warm = kernel.prewarm(kernel.make(order), (8,), ticking(step_s=10.0))

    assert [each.samples for each in warm] == [3] * len(warm)


def test_a_pass_is_measured_in_processor_time_and_not_by_the_clock(order, tmp_path):
    """A second clock that stands for a busy machine changes nothing."""
    child._compile(order, tmp_path, ticking(step_s=100.0), ticking(step_s=0.002))

    report = read_report(tmp_path)
    assert report.eager_us == pytest.approx(2_000.0)
    assert [each.p50_ms for each in report.prewarm] == pytest.approx([2.0, 2.0])


def test_percentiles_are_interpolated():
    assert kernel.percentile([], 0.5) == 0.0
    assert kernel.percentile([3.0], 0.95) == 3.0
    assert kernel.percentile([4.0, 1.0, 2.0, 3.0], 0.5) == 2.5
    assert kernel.percentile([1.0, 2.0], 0.95) == pytest.approx(1.95)


def test_a_form_that_computes_something_else_is_found():
    module = nn.Linear(8, 8)
    wrong = nn.Linear(8, 8)
    wrong.load_state_dict(module.state_dict())
    h = kernel.activation(16, (8,))
    assert kernel.difference(module, wrong, h) == 0.0

    with torch.no_grad():
        wrong.bias += 1e-3
    assert kernel.difference(module, wrong, h) > kernel.TOLERANCE


def test_a_form_with_another_gradient_is_found():
    class Detached(nn.Module):
        def forward(self, h):
            return h + h.detach() - h.detach() + (h - h.detach())

    class Plain(nn.Module):
        def forward(self, h):
            return h + h * 0.0

    assert kernel.difference(Plain(), Detached(), kernel.activation(16, (8,))) > 0.5


def test_random_forms_are_compared_with_the_same_draws():
    assert kernel.difference(nn.Dropout(0.5), nn.Dropout(0.5), kernel.activation(16, (8,))) == 0.0


def template(tier):
    return Blueprint("BP099", "something", "residual", 5, 0.8, "for a test", tier=tier)


@pytest.mark.requirement("R-TEZ-3")
def test_only_what_is_permitted_is_compiled():
    """R-TEZ-3."""
    assert refusal(template("safe"), approved=False) == ""
    assert "needs an approval" in refusal(template("experimental"), approved=False)
    assert refusal(template("experimental"), approved=True) == ""
    assert "quarantine" in refusal(template("high_risk"), approved=True)


def test_what_cannot_be_built_says_why(order):
    with pytest.raises(InvalidInput, match="there is no blueprint 'BP999'"):
        kernel.make(replace(order, blueprint_id="BP999"))
    with pytest.raises(InvalidInput, match="depth = 99 is outside"):
        kernel.make(replace(order, parameters={"depth": 99.0}))


@pytest.mark.requirement("R-TEZ-1")
def test_a_scan_asks_for_every_permitted_template_and_shape_once():
    """R-TEZ-1."""
    vector, image = SiteShape("vector", (8,)), SiteShape("image", (4, 6, 6))
    asked = requests([vector, image, vector])

    wanted = {(b.blueprint_id, s.kind) for b in CATALOGUE.values() for s in (vector, image) if s.kind in b.kinds}
    safe = {b.blueprint_id for b in CATALOGUE.values() if b.tier == "safe"}
    assert {(body.blueprint_id, body.shape_kind) for body in asked} == {pair for pair in wanted if pair[0] in safe}
    assert len({body.job_id for body in asked}) == len(asked)


def test_a_scan_asks_for_nothing_that_would_be_refused():
    tiers = ("safe", "experimental", "high_risk")
    templates = [template(tier) for tier in tiers]
    site = [SiteShape("vector", (8,))]

    assert len(requests(site, tiers=tiers, catalogue=templates)) == 1
    assert len(requests(site, tiers=tiers, catalogue=templates, approved=["BP099"])) == 2
    assert len(requests(site, catalogue=templates, approved=["BP099"])) == 1


@pytest.mark.requirement("R-TEZ-21")
def test_nobody_else_compiles():
    """R-TEZ-21. `compiled.py` asks torch by the same call for what its cache holds; there, nothing compiles."""
    root = Path(kernel.__file__).parents[2]
    files = [path for room in ("esper", "streams", "projections") for path in (root / room).rglob("*.py")]
    compiling = {str(path.relative_to(root)) for path in files if "torch.compile(" in path.read_text(encoding="utf-8")}

    assert compiling == {"esper/tezzeret/kernel.py", "esper/tezzeret/compiled.py"}
