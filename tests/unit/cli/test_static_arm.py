"""Which static run belongs to a grown one, by what that came to: its structure and its FLOPs, or none at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.leyline.v1.leyline_pb2 import SEED_OPERATION_GERMINATE
from esper.cli.run_view import RunView
from esper.cli.static import StaticArm
from esper.kasmina.settings import SeedSettings
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.testing import KEYS, REAL_CLOCK, MemoryLog, seed_command, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Outside
from esper.tolaria.structure import Piece
from esper.tolaria.tasks import load_task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld

CONFIG = RunConfig(task="spirals", epochs=1, policy="none", seeds=SeedSettings(lifecycle="direct"), seed=4)


@pytest.fixture
def ran(tmp_path: Path) -> Callable[..., RunView]:
    """A run of one epoch as the command sees it, in which these seeds grow at once."""

    def run(**grow: str) -> RunView:
        objects = ObjectStore(tmp_path / "objects")
        log = MemoryLog(objects=objects)
        for seed_id, blueprint_id in grow.items():
            log.send(signed(seed_command("k3f9", SEED_OPERATION_GERMINATE, seed_id, blueprint_id)))
        outside = Outside(log, REAL_CLOCK, objects, CommandVerifier(KEYS))
        train(CONFIG, load_task("spirals"), LiveWorld(outside), run_id="k3f9")
        return RunView.of("k3f9", log.events)

    return run


def test_it_has_what_grew_and_as_many_flops(ran: Callable[..., RunView], tmp_path: Path) -> None:
    view = ran(s2="BP009", s1="BP008")
    arm = StaticArm("k3f9", replace(CONFIG, policy="heuristic"), tmp_path)
    config = arm.config_beside(view)

    assert config is not None
    assert (arm.run_id, config.static_of, config.control_of) == ("k3f9-static", "k3f9", "")
    assert [(piece.seed_id, piece.blueprint_id) for piece in config.structure] == [("s1", "BP008"), ("s2", "BP009")]
    assert (config.policy, config.epochs, config.flops_budget) == ("none", None, view.finished.flops)
    assert (config.task, config.seed) == ("spirals", 4)
    assert isinstance(config.structure[0], Piece)


def test_a_run_in_which_nothing_grew_or_that_did_not_complete_has_none(
    ran: Callable[..., RunView], tmp_path: Path
) -> None:
    arm = StaticArm("k3f9", CONFIG, tmp_path)
    interrupted = ran(s1="BP008")
    interrupted.finished.status = "interrupted"

    assert arm.config_beside(ran()) is None
    assert arm.config_beside(interrupted) is None
    assert arm.config_beside(RunView("k3f9")) is None


def test_without_the_last_checkpoint_there_is_none_and_it_is_said(
    ran: Callable[..., RunView], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = ran(s1="BP008")
    shutil.rmtree(tmp_path / "objects")

    assert StaticArm("k3f9", CONFIG, tmp_path).config_beside(view) is None
    assert "there is no static run to compare with: object sha256:" in capsys.readouterr().err
