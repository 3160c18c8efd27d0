"""R-KAS-1 to R-KAS-3: the stages are Leyline's, the table is the whole truth, and gates are exit gates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import esper.kasmina
from contracts.leyline.v1 import leyline_pb2 as leyline
from contracts.leyline.v1.event_pb2 import SiteDescription
from esper.errors import IllegalTransition
from esper.kasmina import lifecycle
from esper.kasmina.seed import Slot

# Written out by hand from the original's table and ruling 5, so that the code's table is not its own witness.
LEGAL = {
    (0, 1): None,
    (1, 2): None,
    (1, 11): None,
    (2, 3): 1,
    (2, 8): None,
    (3, 4): 2,
    (3, 8): None,
    (4, 5): 3,
    (4, 8): None,
    (5, 6): 4,
    (5, 8): None,
    (6, 7): 5,
    (6, 8): None,
    (8, 9): None,
    (9, 10): None,
    (10, 1): 6,
    (7, 11): None,
}
PAIRS = [(source, target) for source in range(12) for target in range(12)]


@pytest.mark.requirement("R-KAS-2", "R-LEY-5")
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_twelve_by_twelve(source, target):
    """A legal pair gives its row with its gate; every other raises, and a slot that tries keeps its stage."""
    slot = Slot(SiteDescription(seed_id="s1"), stage=source, stage_epochs=3, stage_steps=9)
    if (source, target) in LEGAL:
        assert lifecycle.move(source, target).gate == LEGAL[source, target]
        slot.enter(target)
        assert (slot.stage, slot.stage_epochs, slot.stage_steps) == (target, 0, 0)
        return
    assert not lifecycle.is_legal(source, target)
    with pytest.raises(IllegalTransition, match=lifecycle.name(source)):
        slot.enter(target)
    assert (slot.stage, slot.stage_epochs, slot.stage_steps) == (source, 3, 9)


@pytest.mark.requirement("R-KAS-1", "R-KAS-3")
def test_stages_and_gates_are_leylines():
    assert list(lifecycle.STAGES) == sorted(leyline.SeedLifecycleStage.values())
    assert [lifecycle.name(stage) for stage in lifecycle.STAGES[1:3]] == ["DORMANT", "GERMINATED"]
    gates = [row.gate for row in lifecycle.MOVES if row.gate is not None]
    assert sorted(gates) == sorted(leyline.SeedLifecycleGate.values())[1:]
    assert [lifecycle.exit_gate(stage) for stage in (2, 3, 4, 5, 6, 10)] == gates
    assert lifecycle.exit_gate(lifecycle.DORMANT) is None


def test_every_stage_can_be_reached_and_only_terminated_is_an_end():
    reached = {lifecycle.UNKNOWN}
    for _ in lifecycle.STAGES:
        reached |= {target for stage in reached for target in lifecycle.targets(stage)}
    assert reached == set(lifecycle.STAGES)
    assert [stage for stage in lifecycle.STAGES if not lifecycle.targets(stage)] == [lifecycle.TERMINATED]


def test_the_refusal_names_the_way_out():
    with pytest.raises(IllegalTransition, match="from there it goes to TRAINING, CULLED"):
        lifecycle.move(lifecycle.GERMINATED, lifecycle.FOSSILIZED)


def test_readme_shows_the_table_as_it_is():
    readme = (Path(esper.kasmina.__path__[0]) / "README.md").read_text()
    assert f"```mermaid\n{lifecycle.diagram()}\n```" in readme


@pytest.mark.requirement("R-KAS-46")
def test_kasmina_imports_no_policy_and_no_compiler():
    """R-KAS-46: it executes; Tamiyo decides and Tezzeret compiles. Modules come through the injected `build`."""
    folder = Path(esper.kasmina.__path__[0])
    for path in folder.glob("*.py"):
        words = path.read_text()
        for stranger in (
            "esper.tamiyo",
            "esper.simic",
            "esper.tezzeret",
            "esper.karn",
            "torch.compile",
            "torch._dynamo",
        ):
            assert f"import {stranger}" not in words, path
            assert f"from {stranger}" not in words, path
            assert f"{stranger}(" not in words, path


def test_lifecycle_gates_and_settings_need_no_torch():
    """Folds of the log use them in processes that never load it."""
    modules = "esper.kasmina.lifecycle, esper.kasmina.gates, esper.kasmina.settings"
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; assert 'torch' not in sys.modules"], check=True)
