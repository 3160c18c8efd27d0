"""`esper.load`: the network of a run as a plain module, bit for bit the one that the run had."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.export import export

import esper
from contracts.leyline.v1.leyline_pb2 import SEED_OPERATION_GERMINATE
from esper.cli.history import history_of
from esper.cli.replay import recorded_run
from esper.errors import CorruptState, InvalidInput
from esper.kasmina.grown import Grown
from esper.kasmina.settings import SeedSettings
from esper.leyline.envelope import body_name
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.record import Recorded
from esper.testing import KEYS, REAL_CLOCK, MemoryLog, seed_command, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.grown import grown_network
from esper.tolaria.hosts import BlocklessResNet
from esper.tolaria.outside import Outside
from esper.tolaria.replay import recorded_snapshot
from esper.tolaria.session import RunResult
from esper.tolaria.state import FlatState
from esper.tolaria.tasks import load_task
from esper.tolaria.tasks.task import evaluate
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from esper.weatherlight.alive import this_process
from projections.archive_writer import Archive
from projections.testing import LogOfRecords

DIRECT = SeedSettings(lifecycle="direct")
QUICK = SeedSettings(lifecycle="careful", training_epochs=1, blend_epochs=3)
RUNS: dict[str, dict[str, Any]] = {
    "spirals": {"epochs": 3, "grow": {"s1": "BP008", "s2": "BP009"}, "seeds": QUICK},
    "chars": {"epochs": 1, "grow": {"s2": "BP023"}, "seeds": DIRECT},
    "spirals-wide": {"epochs": 1, "grow": {}, "seeds": DIRECT},
    "digits": {"epochs": 2, "grow": {"s1": "BP009", "s3": "BP011"}, "seeds": DIRECT},
}


@dataclass
class Ran:
    """A data folder with a run of each task, and how each came out."""

    folder: Path
    results: dict[str, RunResult]

    def load(self, run: str = "last", **asked: Any) -> nn.Module:
        return esper.load(run, data_dir=self.folder, **asked)

    def recorded(self, run: str) -> tuple[Recorded, FlatState]:
        with history_of(self.folder) as history:
            recorded = recorded_run(history, run)
        return recorded, recorded_snapshot(recorded.checkpoints()[-1], ObjectStore(self.folder / "objects")).flat


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("data")
    objects, records, results = ObjectStore(folder / "objects"), LogOfRecords(), {}
    with Archive(folder / "archive") as archive:
        for name, told in RUNS.items():
            log = MemoryLog(objects=objects)
            for seed_id, blueprint_id in told["grow"].items():
                command = seed_command(name, SEED_OPERATION_GERMINATE, seed_id, blueprint_id)
                log.publish(command)
                log.send(signed(command))
            config = RunConfig(task=name, epochs=told["epochs"], policy="none", seeds=told["seeds"], keep_checkpoints=1)
            world = LiveWorld(Outside(log, REAL_CLOCK, objects, CommandVerifier(KEYS)))
            results[name] = train(config, load_task(name), world, run_id=name)
            archive.append(records.place(log.events))
    return Ran(folder, results)


def grown(network: nn.Module) -> dict[str, tuple[str, bool]]:
    """Which modules grew: their blueprint, and whether they are proven, by the name of their place."""
    modules = network.named_modules()
    return {name: (each.blueprint_id, each.proven) for name, each in modules if isinstance(each, Grown)}


def figures(network: nn.Module, name: str) -> tuple[float, float]:
    task = load_task(name)
    found = evaluate(network, task, task.test)
    return found.accuracy, found.loss.mean


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("name", RUNS)
def test_it_computes_what_the_run_computed(ran: Ran, name: str, tmp_path: Path) -> None:
    network, result = ran.load(name), ran.results[name]

    assert figures(network, name) == (result.val_accuracy, result.test_loss)
    assert sum(each.numel() for each in network.parameters()) == result.params_final
    assert all(each.requires_grad for each in network.parameters())
    assert not network.training
    assert not any(each._forward_hooks for each in network.modules())

    inputs = load_task(name).test.inputs[:3]
    exported = export(network, (inputs,)).module()
    assert torch.equal(exported(inputs), network(inputs))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    again = ran.load(name)
    torch.nn.utils.vector_to_parameters(torch.zeros(result.params_final), again.parameters())
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "w.safetensors"))
    assert torch.equal(again(inputs), network(inputs))


def test_what_grew_stands_at_its_place_under_its_name(ran: Ran) -> None:
    network = ran.load("digits")

    assert grown(network) == {"blocks.0": ("BP009", True), "blocks.2": ("BP011", True)}
    assert "s1: BP009, FOSSILIZED, alpha 1" in repr(network)


def test_a_seed_that_is_not_proven_is_built_in_as_it_is_and_named(ran: Ran) -> None:
    with pytest.warns(UserWarning, match=r"run spirals has seeds .*: s1: BP008, BLENDING, alpha 0\.\d+; s2: BP009"):
        network = ran.load("spirals")

    assert grown(network) == {"layers.0": ("BP008", False), "layers.1": ("BP009", False)}


@pytest.mark.filterwarnings("default::UserWarning")
def test_an_earlier_place_is_trained_again_from_the_record(ran: Ran) -> None:
    """Only the newest checkpoint is kept; in TRAINING a seed is no part of the network yet."""
    steps = load_task("spirals").steps(load_task("spirals").batch_size)
    after, first, before = (ran.load("spirals", **asked) for asked in ({"epoch": 1}, {"at": steps}, {"at": steps - 1}))

    assert grown(before) == {}
    assert torch.equal(*(network.get_parameter("head.weight") for network in (first, after)))
    assert not torch.equal(*(network.get_parameter("head.weight") for network in (before, after)))


def test_a_model_of_ones_own_takes_the_weights_and_no_task_is_loaded(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_task("digits").make_host()
    monkeypatch.setattr("esper.tolaria.tasks.BUILTIN", {})

    assert ran.load("digits", model=model) is model
    monkeypatch.undo()
    assert figures(model, "digits")[0] == ran.results["digits"].val_accuracy
    with pytest.raises(CorruptState, match=r"the state of the run does not fit BlocklessResNet: .*size mismatch"):
        ran.load("digits", model=BlocklessResNet(1, 5, 10))
    with pytest.raises(InvalidInput, match=r"there is no site 'blocks.0' in Linear"):
        ran.load("digits", model=nn.Linear(3, 3))
    with pytest.raises(InvalidInput, match="keeps no checkpoint of that place; without `model` it is trained up to"):
        ran.load("digits", epoch=1, model=load_task("digits").make_host())


@pytest.fixture
def alone(ran: Ran, tmp_path: Path) -> Ran:
    """A copy of the folder, to be damaged."""
    return Ran(Path(shutil.copytree(ran.folder, tmp_path / "copy")), ran.results)


def test_a_checkpoint_that_is_gone_is_named_with_the_way_round(alone: Ran) -> None:
    shutil.rmtree(alone.folder / "objects")

    with pytest.raises(InvalidInput, match=r"^object sha256:\w+ is not in .*newest checkpoint of run digits.*epoch=2"):
        alone.load("digits")
    assert grown(alone.load("digits", epoch=2)) == {"blocks.0": ("BP009", True), "blocks.2": ("BP011", True)}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"run": "none"}, "there is no run 'none' in this data folder"),
        ({"run": "digits", "epoch": 9}, "run digits has no epoch 9: its facts reach epoch 2"),
        ({"run": "digits", "epoch": 1, "at": 3}, "epoch=1 and at=3 are two places; give one of them"),
    ],
    ids=["unknown run", "unknown epoch", "two places"],
)
def test_what_cannot_be_loaded_is_said_in_one_line(ran: Ran, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        ran.load(**asked)

    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("lives", "said"),
    [
        (True, "run spirals goes on still: wait until it is over, or load what it was .*epoch=0 is the last"),
        (False, "run spirals has no checkpoint yet: it ended in its first epoch"),
    ],
    ids=["its trainer lives", "its trainer died"],
)
def test_a_run_that_goes_on_and_one_that_died_at_once(tmp_path: Path, *, lives: bool, said: str) -> None:
    """This very process is the trainer of the one; that of the other has gone."""
    objects, log = ObjectStore(tmp_path / "objects"), MemoryLog()
    process = this_process()
    if not lives:
        process.started_ticks += 1
    outside = Outside(log, REAL_CLOCK, objects, process=process, should_stop=lambda: True)
    train(RunConfig(task="spirals", policy="none"), load_task("spirals"), LiveWorld(outside), run_id="spirals")
    begun = [event for event in log.events if body_name(event) != "run_finished"]
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(begun))

    with pytest.raises(InvalidInput, match=said):
        esper.load("last", data_dir=tmp_path)


def test_a_host_that_reaches_past_its_modules_is_refused(ran: Ran) -> None:
    """Its forward pass goes round the attribute, so a seed in that place would never be asked."""

    class Stubborn(BlocklessResNet):
        def __init__(self) -> None:
            super().__init__(1, 4, 10)
            self.kept = [self.blocks[0], self.blocks[2]]

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            hidden = self.norm(self.stem(images)).relu()
            for block in self.kept:
                hidden = block(hidden)
            logits: torch.Tensor = self.head(nn.functional.adaptive_avg_pool2d(hidden, 2).flatten(1))
            return logits

    recorded, flat = ran.recorded("digits")
    config = RunConfig.from_json(recorded.root.config_json)
    task = replace(load_task("digits"), make_host=Stubborn)
    with pytest.raises(InvalidInput, match=r"Stubborn does not compute the same .*\(blocks.0, blocks.1, blocks.2\)"):
        grown_network(task, recorded.root.sites, config, flat)


def test_the_example_of_the_page_works(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "network.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setenv("ESPER_DATA", str(ran.folder))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)

    assert names["classes"].shape == (4,)
    assert safetensors.torch.load_file("digits.safetensors").keys() == names["network"].state_dict().keys()
    exported = torch.export.load("digits.pt2").module()
    assert torch.equal(exported(names["images"]), names["network"](names["images"]))


def test_importing_esper_imports_no_torch() -> None:
    check = "import sys, esper; assert callable(vars(esper)['__getattr__']); sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        esper.lode  # noqa: B018
