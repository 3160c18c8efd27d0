"""`esper.load`: the network of a run as a plain module, bit for bit the one that the run had."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.export import export

import esper
from contracts.leyline.v1.leyline_pb2 import SEED_OPERATION_GERMINATE
from esper.cli.archive import export_command
from esper.cli.history import history_of
from esper.cli.load import load_command
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
from projections.export import verify_export
from projections.testing import LogOfRecords

DIRECT = SeedSettings(lifecycle="direct")
QUICK = SeedSettings(lifecycle="careful", training_epochs=1, blend_epochs=3)
RUNS: dict[str, dict[str, Any]] = {
    "spirals": {"epochs": 3, "grow": {"s1": "BP008", "s2": "BP009"}, "seeds": QUICK},
    "chars": {"epochs": 1, "grow": {"s2": "BP023", "s4": "BP052"}, "seeds": DIRECT},
    "spirals-wide": {"epochs": 3, "grow": {}, "seeds": DIRECT, "keep": 3},
    "digits": {"epochs": 2, "grow": {"s1": "BP009", "s3": "BP011"}, "seeds": DIRECT},
}


MISFIT = "BlocklessResNet: stem.weight has shape (4, 1, 3, 3) in the run and shape (5, 1, 3, 3) in the model"


@dataclass(eq=False)
class Ran:
    """A data folder with a run of each task, and how each came out."""

    folder: Path
    results: dict[str, RunResult]

    def load(self, run: str = "last", **asked: Any) -> nn.Module:
        return esper.load(run, data_dir=self.folder, **asked)

    @cache  # noqa: B019 - one of a module; tracing the network takes seconds
    def source(self, run: str) -> str:
        return esper.grown_source(run, data_dir=self.folder)

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
            config = RunConfig(
                task=name,
                epochs=told["epochs"],
                policy="none",
                seeds=told["seeds"],
                keep_checkpoints=told.get("keep", 1),
            )
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
    with pytest.raises(CorruptState, match=re.escape(MISFIT)):
        ran.load("digits", model=BlocklessResNet(1, 5, 10))
    with pytest.raises(InvalidInput, match=r"there is no site 'blocks.0' in Linear"):
        ran.load("digits", model=nn.Linear(3, 3))
    with pytest.raises(
        InvalidInput, match=r"no checkpoint of that place \(epochs that are kept: 2\); without `model` it"
    ):
        ran.load("digits", epoch=1, model=load_task("digits").make_host())


def test_the_best_epoch_is_the_best_by_the_main_metric_of_those_that_are_kept(ran: Ran) -> None:
    recorded, _ = ran.recorded("spirals-wide")
    ends = [fact for fact in recorded.facts if fact.HasField("epoch_completed")]
    states = {fact.epoch: fact.epoch_completed.state for fact in ends}
    first = max(states, key=lambda epoch: (states[epoch].validation_accuracy, -states[epoch].validation_loss))
    best, wanted = ran.load("spirals-wide", epoch="best"), ran.load("spirals-wide", epoch=first)

    assert len(states) == 3
    assert torch.equal(best.get_parameter("head.weight"), wanted.get_parameter("head.weight"))
    network = ran.load("digits", epoch="best")  # keeps the second epoch alone
    assert torch.equal(network.get_parameter("head.weight"), ran.load("digits").get_parameter("head.weight"))


@pytest.mark.filterwarnings("default::UserWarning")
def test_its_source_needs_torch_alone_and_computes_the_same(ran: Ran, tmp_path: Path) -> None:
    """One process for all: torch's import takes longer than the rest."""
    said = {
        "spirals": "skip_connection (BP008)",
        "chars": "32 units of blocks.0.qkv",
        "digits": "class ResidualBlockAtS1",
    }
    for name, line in said.items():
        source, network = ran.source(name), ran.load(name)
        inputs = load_task(name).test.inputs[:3]
        torch.save((network.state_dict(), inputs, network(inputs)), tmp_path / f"{name}.pt")
        (tmp_path / f"{name}.py").write_text(source + CHECK.format(name=name))

        assert "esper" not in source.replace("`esper load`", "")
        assert line in source
    each = "import runpy, sys\nfor name in sys.argv[1:]: runpy.run_path(name)"
    alone = [sys.executable, "-S", "-c", each, *(f"{name}.py" for name in said)]
    done = subprocess.run(alone, cwd=tmp_path, env=ALONE, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, list(said)), done.stderr


CHECK = """
weights, inputs, expected = torch.load("{name}.pt")
network.load_state_dict(weights)
assert torch.equal(network.eval()(inputs), expected)
import sys
assert not any(module.split(".")[0] in ("esper", "contracts") for module in sys.modules)
print("{name}")
"""
ALONE = {"PYTHONPATH": str(Path(torch.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def test_a_model_of_ones_own_needs_inputs_for_its_source(ran: Ran) -> None:
    made = load_task("digits").make_host
    with pytest.raises(InvalidInput, match="the source needs inputs: a batch of two samples or more"):
        esper.grown_source("digits", data_dir=ran.folder, model=made())

    given = esper.grown_source("digits", data_dir=ran.folder, model=made(), inputs=torch.rand(5, 1, 8, 8))
    assert given == ran.source("digits")


def written(ran: Ran, out: Path, run: str = "digits", at: str | None = None) -> None:
    load_command(ran.folder, run, at, out, trust=False, as_json=False)


def test_on_the_command_line_the_name_of_the_file_says_what_it_holds(ran: Ran, tmp_path: Path, capsys) -> None:
    network, inputs = ran.load("digits"), load_task("digits").test.inputs[:5]
    for form in (".safetensors", ".py", ".pt2"):
        written(ran, tmp_path / f"net{form}", at="best")

    assert "s1: residual_block (BP009), behind blocks.0, FOSSILIZED" in capsys.readouterr().out
    weights = safetensors.torch.load_file(tmp_path / "net.safetensors")
    told = json.loads((tmp_path / "net.json").read_text())
    assert {name: each["shape"] for name, each in told["tensors"].items()} == {
        k: [*v.shape] for k, v in weights.items()
    }
    first = told["grew"][0]
    assert (first["seed"], first["at"], first["name"]) == ("s1", "blocks.0", "residual_block")
    assert (told["run"], told["epoch"], told["task"]) == ("digits", 2, "digits")
    names: dict[str, Any] = {}
    exec((tmp_path / "net.py").read_text(), names)
    names["network"].load_state_dict(weights)
    assert torch.equal(names["network"].eval()(inputs), network(inputs))
    assert torch.equal(torch.export.load(tmp_path / "net.pt2").module()(inputs), network(inputs))


@pytest.mark.parametrize("name", [pytest.param("chars", marks=pytest.mark.soak), "digits"])
def test_as_onnx_it_computes_the_same_within_1e_5(ran: Ran, tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnxscript", reason="the extra esper-lite[onnx] is not installed")
    onnx = pytest.importorskip("onnx", reason="the extra esper-lite[onnx] is not installed")
    reference = pytest.importorskip("onnx.reference")
    written(ran, tmp_path / "net.onnx", name)
    inputs = load_task(name).test.inputs[:3]

    program = reference.ReferenceEvaluator(onnx.load(tmp_path / "net.onnx"))
    (found,) = program.run(None, {program.input_names[0]: inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), ran.load(name)(inputs).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("out", "at", "said"),
    [("net.bin", None, "must end with .safetensors, .py, .pt2, .onnx"), ("net.py", "late", "'late' is neither a step")],
)
def test_what_cannot_be_written_is_said_before_anything_is_loaded(ran: Ran, tmp_path: Path, out, at, said) -> None:
    with pytest.raises(InvalidInput, match=said):
        written(ran, tmp_path / out, at=at)
    assert not any(tmp_path.iterdir())


def test_an_export_takes_the_network_along(ran: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "for-ada"
    export_command(ran.folder, "digits", to, with_objects=False, with_network=True, trust=False, as_json=False)

    assert "its network: network.json, network.py, network.safetensors" in capsys.readouterr().out
    assert verify_export(to).problems == ()
    names: dict[str, Any] = {}
    exec((to / "network" / "network.py").read_text(), names)
    names["network"].load_state_dict(safetensors.torch.load_file(to / "network" / "network.safetensors"))
    (to / "network" / "network.json").write_text("{}")
    assert verify_export(to).problems == ("network/network.json was changed",)


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
        ({"run": "digits", "epoch": "worst"}, "epoch='worst' is none: give a number, or 'best'"),
        ({"run": "digits", "epoch": 1, "at": 3}, "epoch=1 and at=3 are two places; give one of them"),
    ],
    ids=["unknown run", "unknown epoch", "no epoch", "two places"],
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


def test_a_run_of_a_script_asks_for_the_model_that_the_script_makes(tmp_path: Path, capsys) -> None:
    """Its weights alone are to be had without."""
    objects, log = ObjectStore(tmp_path / "objects"), MemoryLog()
    config, outside = RunConfig(task="spirals", policy="none", epochs=1), Outside(log, REAL_CLOCK, objects)
    train(config, load_task("spirals"), LiveWorld(outside), run_id="spirals")
    log.events[0].run_started.script.path = "train.py"
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(log.events))

    with pytest.raises(InvalidInput, match=r"a script of your own.*esper.load\('spirals', model=\.\.\.\)"):
        esper.load(data_dir=tmp_path)
    export_command(tmp_path, "last", tmp_path / "e", with_objects=False, with_network=True, trust=False, as_json=False)
    assert "its network: network.json, network.safetensors" in capsys.readouterr().out
    tensors = safetensors.torch.load_file(tmp_path / "e" / "network" / "network.safetensors")
    assert json.loads((tmp_path / "e" / "network" / "network.json").read_text())["tensors"].keys() == tensors.keys()
    model = load_task("spirals").make_host()
    assert esper.load(data_dir=tmp_path, model=model) is model
    assert all(torch.equal(tensors[f"host.{name}"], each) for name, each in model.state_dict().items())
    assert figures(model, "spirals")[1] == next(each for each in reversed(log.events)).run_finished.test_loss


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
    example, said = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setenv("ESPER_DATA", str(ran.folder))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)

    assert names["classes"].shape == (4,)
    assert safetensors.torch.load_file("digits.safetensors").keys() == names["network"].state_dict().keys()
    exported = torch.export.load("digits.pt2").module()
    assert torch.equal(exported(names["images"]), names["network"](names["images"]))
    assert said in esper.grown_source()


def test_importing_esper_imports_no_torch() -> None:
    check = "import sys, esper; assert callable(vars(esper)['__getattr__']); sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        esper.lode  # noqa: B018
