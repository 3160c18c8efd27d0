"""Another form of a seed's kernel takes over between two steps: compared first, the same parameters, a fact."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from esper.errors import EsperError
from esper.kasmina import kasmina as room
from esper.kasmina import lifecycle
from esper.kasmina.kernels import SWAPPABLE, TOLERANCE


class Form:
    """A form of the module's own arithmetic that can be told to be wrong, and counts its calls."""

    artifact_ref = "sha256:" + "a" * 64

    def __init__(self, error=0.0, failure=None):
        self.error, self.failure = error, failure
        self.calls = 0

    def form_of(self, module, _h):
        if self.failure is not None:
            raise self.failure

        def form(h):
            self.calls += 1
            return module(h) + self.error

        return form


@pytest.fixture
def mixed(make_lab):
    """A laboratory whose seed s1 is in BLENDING."""
    lab = make_lab()
    lab.germinate()
    lab.until(lifecycle.BLENDING)
    return lab


def test_a_form_that_agrees_serves_from_the_next_step_on_and_changes_nothing(mixed):
    form = Form()
    before = {name: tensor.clone() for name, tensor in mixed.kasmina.modules()["s1"].state_dict().items()}
    stream = torch.get_rng_state()

    (fact,) = mixed.kasmina.swap("s1", form, lambda: mixed.host(mixed.inputs[:16]))

    assert (fact.from_form, fact.to_form, fact.artifact_ref) == ("eager", "compiled", form.artifact_ref)
    assert 0.0 <= fact.max_difference <= TOLERANCE
    assert all(torch.equal(tensor, before[name]) for name, tensor in mixed.kasmina.modules()["s1"].state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    compared = form.calls
    mixed.epoch()
    assert form.calls == compared + mixed.steps


@pytest.mark.requirement("R-TOL-35")
def test_a_form_that_disagrees_is_refused_and_told_of(mixed):
    assert mixed.kasmina.swap("s1", Form(error=1e-3), lambda: mixed.host(mixed.inputs[:16])) == []

    (packet,) = mixed.kasmina.drain_telemetry()
    (event,) = [event for event in packet.events if event.event_id == "kernel_swap_refused"]
    assert "compiled and eager differ by" in event.attributes["error"]
    assert "s1" in mixed.kasmina.swappable()


@pytest.mark.requirement("R-TOL-35")
def test_a_form_that_cannot_be_loaded_is_refused_and_told_of(mixed):
    assert (
        mixed.kasmina.swap("s1", Form(failure=EsperError("no toolchain")), lambda: mixed.host(mixed.inputs[:16])) == []
    )
    assert mixed.told() == ["kernel_swap_refused"]


def test_only_seeds_that_learn_from_the_hosts_own_pass_are_swapped(make_lab):
    lab = make_lab()
    assert lab.kasmina.swappable() == {}
    lab.germinate()
    seen = set()
    for _ in range(12):
        stage = lab.stage("s1")
        seen.add(stage)
        assert ("s1" in lab.kasmina.swappable()) == (stage in SWAPPABLE)
        lab.epoch()
    assert seen & SWAPPABLE
    assert seen - SWAPPABLE


def test_a_restored_seed_needs_its_form_again_and_nothing_is_told_where_it_gets_it(mixed):
    mixed.kasmina.swap("s1", Form(), lambda: mixed.host(mixed.inputs[:16]))
    saved = mixed.kasmina.state_dict()
    assert mixed.kasmina.swappable() == {}
    other = mixed.new_kasmina()
    other.load_state_dict(saved)
    assert list(other.swappable()) == ["s1"]

    assert other.swap("s1", Form(), lambda: other._grafts.host(mixed.inputs[:16])) == []

    assert other.swappable() == {}
    assert other.state_dict()["scalars"] == saved["scalars"]


def test_a_restored_seed_whose_form_is_gone_is_eager_again_as_a_fact(mixed):
    mixed.kasmina.swap("s1", Form(), lambda: mixed.host(mixed.inputs[:16]))
    other = mixed.new_kasmina()
    other.load_state_dict(mixed.kasmina.state_dict())

    (fact,) = other.swap("s1", None, lambda: other._grafts.host(mixed.inputs[:16]))

    assert (fact.from_form, fact.to_form, fact.artifact_ref) == ("compiled", "eager", Form.artifact_ref)
    assert "compiled" not in str(other.state_dict()["scalars"])


def test_going_back_before_a_swap_brings_the_eager_form_back(mixed):
    before = mixed.kasmina.state_dict()
    mixed.kasmina.swap("s1", form := Form(), lambda: mixed.host(mixed.inputs[:16]))
    mixed.kasmina.load_state_dict(before)
    calls = form.calls
    mixed.epoch()
    assert form.calls == calls


@pytest.mark.requirement("R-TEZ-21")
def test_kasmina_compiles_nothing():
    """R-TEZ-21: no call of anything called compile, and no import of what could."""
    for file in Path(room.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                assert called != "compile", f"{file.name}:{node.lineno}"
                assert not called.startswith(("compile_", "load_cache")), f"{file.name}:{node.lineno}"
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(("esper.tezzeret", "torch._dynamo", "torch._inductor"))
