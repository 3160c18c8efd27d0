"""Whatever is wrong is one line on stderr and exit code 2, and leaves nothing running."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

USER_TASK = """
from collections import OrderedDict
from dataclasses import replace

import torch
from torch import nn
from esper.tolaria.tasks import Site, Task

def task(site="body"):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 8, generator=generator)
    return Task.from_samples(
        "mine",
        make_host=lambda: nn.Sequential(OrderedDict(body=nn.Linear(8, 8), head=nn.Linear(8, 2))),
        sites=(Site(site, "vector"),),
        inputs=inputs, targets=(inputs.sum(dim=1) > 0).long(), epochs=2,
    )

def missing_site():
    return task("bdy")

class Breaks(nn.Linear):
    calls = 0

    def forward(self, inputs):
        Breaks.calls += 1
        if Breaks.calls > 20:
            raise RuntimeError("out of ideas")
        return super().forward(inputs)

def breaks():
    return replace(task(), make_host=lambda: Breaks(8, 2), sites=())

def breaks_at_once():
    return replace(task(), make_host=lambda: nn.Linear(7, 2), sites=())
"""


@pytest.fixture
def user_task(tmp_path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(USER_TASK)
    return str(path)


@pytest.fixture(scope="module")
def up(shared_esper) -> Iterator[Any]:
    """A data folder whose log and workers run already, so that a run that is refused costs no more than its refusal."""
    process = shared_esper.start("up", "--json")
    process.stdout.readline()
    yield shared_esper
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)


def _refused(esper, *arguments: str) -> str:
    done = esper(*arguments, code=2)
    assert done.stderr.splitlines()[-1].startswith("esper: ")
    said = [
        line for line in done.stderr.splitlines() if line.startswith("esper: ") and "made a signing key" not in line
    ]
    assert len(said) == 1
    assert "Traceback" not in done.stderr
    return said[0]


def test_unknown_task(up):
    assert "task 'digit' is unknown; did you mean digits?" in _refused(up, "run", "--task", "digit")


def test_missing_data(up, tmp_path):
    said = _refused(up, "run", "--task", f"cifar10:{tmp_path / 'nowhere'}")
    assert str(tmp_path / "nowhere") in said


def test_what_a_model_raises_is_said_with_its_place_and_kept(up, user_task):
    said = up("run", "--no-control", "--task", f"{user_task}:breaks", code=1).stderr.splitlines()[-1]
    assert f"RuntimeError: out of ideas ({user_task}:28, in forward); the traceback is in " in said
    (run,) = [run for run in up.json("runs") if run["task"] == "mine"]
    assert (run["status"], run["test_accuracy"]) == ("failed", None)
    assert run["reason"] == "RuntimeError: out of ideas"


def test_a_run_that_never_began_leaves_nothing_to_read(up, user_task):
    before = {path.name for path in (up.data_dir / "run").iterdir()}
    said = _refused(up, "run", "--no-control", "--task", f"{user_task}:breaks_at_once")
    assert said.startswith(f"esper: {user_task}:12: the loss fails with RuntimeError: mat1")
    assert "mat1 and mat2 shapes cannot be multiplied" in said
    assert "esper events" not in said
    said = _refused(up, "run", "--no-control", "--task", f"{user_task}:missing_site")
    assert "bdy" in said
    assert "body" in said  # those that do exist
    (log,) = {path.name for path in (up.data_dir / "run").iterdir()} - before
    assert "Traceback" in (up.data_dir / "run" / log).read_text()


def test_task_of_the_readme_works(up, tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = [block.split("```")[0] for block in readme.split("```python\n")[1:]]
    (tmp_path / "wine.py").write_text(next(block for block in blocks if "def wine" in block))
    result = up.json("run", "--task", f"{tmp_path / 'wine.py'}:wine", "--no-control", "--epochs", "2")
    assert (result["task"], result["epochs"]) == ("wine", 2)


@pytest.mark.parametrize("command", ["broker", "up"])
def test_port_in_use(esper, command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} cannot be had: Address already in use" in _refused(esper, command, "--port", str(port))


def test_outside_broker_that_does_not_answer(esper, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("ESPER_BROKERS", f"127.0.0.1:{port}")
    assert "ESPER_KEY" in _refused(esper, "run")
    monkeypatch.setenv("ESPER_KEY", "ab" * 32)
    assert f"no log answers at 127.0.0.1:{port}" in _refused(esper, "run")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of the size that is asked for."""
    folder = tmp_path / "small"
    folder.mkdir()

    def mount(size: str) -> Path:
        options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
        if subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting a small file system needs rights that this machine does not give")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(esper, small_disk):
    assert "is full: 2 MB are free" in _refused(replace(esper, data_dir=small_disk("2m") / "data"), "run")


def test_disk_that_fills_up_is_said_to_be_full(esper, small_disk):
    disk = small_disk("272m")
    esper = replace(esper, data_dir=disk / "data")
    process = esper.start("run", "--epochs", "500", "--no-control")
    esper.wait_until(lambda: list(disk.glob("data/archive/files/epoch_completed-*")))
    with contextlib.suppress(OSError), (disk / "fill").open("wb", buffering=0) as fill:
        while fill.write(bytes(2**20)):
            pass
    _, said = process.communicate(timeout=60)
    assert process.returncode in {1, 2}
    assert f"the disk of data folder {esper.data_dir} is full" in said
    assert "Traceback" not in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written(esper, tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot be made" in _refused(esper, "run")
