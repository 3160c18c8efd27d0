"""`esper state --load`: the weights of a real run as a file that safetensors opens."""

from __future__ import annotations

import json

import pytest
import safetensors
import torch

from esper.cli.app import dispatch
from esper.leyline.objects import ObjectStore
from esper.testing import REAL_CLOCK, MemoryLog
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Outside
from esper.tolaria.state import load_checkpoint
from esper.tolaria.tasks import recorded_task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from projections.archive_writer import Archive
from projections.testing import LogOfRecords

RUN = "k3f9x2qa"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Two epochs of spirals without growth, archived."""
    folder = tmp_path_factory.mktemp("data")
    objects = ObjectStore(folder / "objects")
    log = MemoryLog(objects=objects)
    config = RunConfig(task="spirals", epochs=2, policy="none", keep_checkpoints=0, threads=1)
    task = recorded_task("spirals", "builtin:spirals", objects)
    train(config, task, LiveWorld(Outside(log, REAL_CLOCK, objects)), run_id=RUN)
    with Archive(folder / "archive") as archive:
        archive.append(LogOfRecords().place(log.events))
    return folder


@pytest.fixture
def load(data_dir, tmp_path, capsys):
    def ask(at: str):
        file = tmp_path / "w.safetensors"
        assert dispatch(["state", "last", "--at", at, "--load", str(file), "--json", "--data-dir", str(data_dir)]) == 0
        assert f"are in {file}" in capsys.readouterr().err
        with safetensors.safe_open(file, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118

    return ask


def test_at_a_checkpoint_they_are_the_checkpoints(data_dir, load, capsys):
    dispatch(["state", "last", "--at", "epoch:1", "--json", "--data-dir", str(data_dir)])
    told = json.loads(capsys.readouterr().out)
    flat, _, _ = load_checkpoint(ObjectStore(data_dir / "objects"), told["last_checkpoint"]["ref"])

    held, about = load("epoch:1")

    stored = {
        name.replace("host/", "host."): tensor for name, tensor in flat.tensors.items() if name.startswith("host/")
    }
    assert held.keys() == stored.keys()
    assert all(torch.equal(held[name], stored[name]) for name in held)
    assert (about["run_id"], about["step"], about["epoch"]) == (RUN, str(told["step"]), "1")
    assert [seed["stage"] for seed in json.loads(about["seeds"])] == ["DORMANT"] * len(told["seeds"])


def test_between_two_checkpoints_they_are_neithers(load):
    before, after, between = (load(at)[0]["host.head.weight"] for at in ("epoch:0", "epoch:1", "5"))

    assert not torch.equal(between, before)
    assert not torch.equal(between, after)


def test_a_file_that_cannot_be_is_said_before_anything_is_trained(data_dir, tmp_path, capsys):
    file = tmp_path / "none" / "w.safetensors"

    assert dispatch(["state", "last", "--load", str(file), "--data-dir", str(data_dir)]) == 2
    assert f"{file} cannot be written" in capsys.readouterr().err


def test_a_folder_is_refused_before_anything_is_trained(data_dir, tmp_path, capsys):
    for folder in (".", str(tmp_path)):
        assert dispatch(["state", "last", "--load", folder, "--data-dir", str(data_dir)]) == 2
        said = capsys.readouterr()
        assert f"{folder} is a folder; name a file with --load" in said.err
        assert said.out == ""


def test_a_stretch_that_the_run_does_not_have_is_refused_in_the_words_that_were_given(data_dir, capsys):
    for asked in (["--from", "90000"], ["--from", "9", "--to", "3"]):
        assert dispatch(["replay", "last", *asked, "--data-dir", str(data_dir)]) == 2
        assert f"; {' '.join(asked)} is no part of it" in capsys.readouterr().err
