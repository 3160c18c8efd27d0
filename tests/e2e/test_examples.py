"""The examples as a person starts them, in short form: growth, kill and resume, replay, SQL, the network."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
import torch

import esper as package
from projections import open_history

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MOST_LINES = 6


def started(esper, name: str, *arguments: object, by: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """An example that runs, `by` Python itself or a module of it, its history in the data folder of `esper`."""
    command = (sys.executable, *by, EXAMPLES / f"{name}.py", *map(str, arguments))
    quiet = {**os.environ, "ESPER_DATA": str(esper.data_dir), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet)
    esper.started.append(process)
    return process


def ran(esper, name: str, *arguments: object, by: tuple[str, ...] = ()) -> str:
    """The id of the run of an example that came to its end."""
    before = {each["run_id"] for each in esper.json("runs")} if (esper.data_dir / "archive").exists() else set()
    process = started(esper, name, *arguments, by=by)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stdout + stderr
    (run_id,) = {each["run_id"] for each in esper.json("runs")} - before
    return run_id


def digests(esper, run_id: str) -> list[tuple[int, bytes]]:
    """The digests that count, by step."""
    with open_history(esper.data_dir / "archive") as history:
        digested = "SELECT DISTINCT global_step, root FROM log.state_digested"
        return history.execute(f"{digested} WHERE run_id = ? AND log_verdict = 1 ORDER BY ALL", [run_id]).fetchall()


def replays(esper, run_id: str) -> None:
    found = esper.json("replay", run_id)
    assert (found["diverged"], found["digests_checked"] > 3) == (False, True), found


@pytest.fixture(scope="module")
def vision(shared_esper) -> str:
    return ran(shared_esper, "vision", "--epochs", 14)


def test_a_plain_script_grows_and_replays(shared_esper, vision):
    (row,) = [each for each in shared_esper.json("runs") if each["run_id"] == vision]
    assert (row["status"], row["task"], row["epochs_done"]) == ("completed", "vision", 14)
    assert shared_esper.json("sql", "select count(*) as n from seeds")[0]["n"] >= 1
    assert "epoch" in shared_esper("why", vision, "s1").stdout
    replays(shared_esper, vision)


def test_a_script_that_was_killed_goes_on_to_the_same_digests(shared_esper, vision):
    process = started(shared_esper, "vision", "--epochs", 14)
    while not process.stdout.readline().startswith("epoch 8"):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run_id = shared_esper.json("resume", "last")["run_id"]
    assert run_id != vision
    assert digests(shared_esper, run_id) == digests(shared_esper, vision)
    replays(shared_esper, run_id)


def test_its_network_is_the_one_that_was_trained(shared_esper, vision, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import vision as script

    network = package.load(vision, model=script.network(), data_dir=shared_esper.data_dir).eval()
    losses = script.losses(network, script.digits()[2])
    (row,) = [each for each in shared_esper.json("runs") if each["run_id"] == vision]
    assert float(losses.detach().double().mean()) == pytest.approx(row["test_loss"], abs=1e-6)
    assert not any(each._forward_hooks for each in network.modules())
    assert torch.equal(losses, script.losses(network, script.digits()[2]))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tabular", ("--epochs", 5, "--rows", 16384)),
        ("language", ("--epochs", 5, "--steps", 10, "--backend", "eager")),
        ("with_lightning", ("--epochs", 5)),
        ("with_transformers", ("--epochs", 3)),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the libraries, whose code a replay runs in this process
def test_the_others_run_and_replay(shared_esper, name, arguments):
    run_id = ran(shared_esper, name, *arguments)
    replays(shared_esper, run_id)


LIMITED = """
import os, resource, runpy, sys
from pathlib import Path
from esper.weatherlight import client
lease = client.join(Path(os.environ["ESPER_DATA"]), client="limited")  # what it starts has no limit of this process's
lease.wait_ready()
import torch.utils.data, esper
def of(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) << 10
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (most or of("VmData") + 200 * 2**20, -1))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
print("peak", of("VmHWM"))
"""
"""Runs a script with at most so many bytes of its own (RLIMIT_DATA: private memory that can be written, wherever it is
from), or where that is 0 with 200 MiB more than Python, torch and Esper have once they are loaded."""


def limited(esper, most: int, *arguments: object) -> tuple[str, int]:
    """The run of the tabular example under that limit, and its peak of resident memory in bytes."""
    before = {each["run_id"] for each in esper.json("runs")} if (esper.data_dir / "archive").exists() else set()
    process = started(esper, "tabular", *arguments, by=("-c", LIMITED, str(most)))
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stdout + stderr
    (run_id,) = {each["run_id"] for each in esper.json("runs")} - before
    return run_id, int(stdout.split("peak ")[1])


@pytest.mark.soak
@pytest.mark.cold  # a fork of the tests' own process has other memory than a person's
@pytest.mark.timeout(600)
def test_a_stream_of_600_mib_is_learnt_from_in_200_mib(shared_esper):
    """Every row is new, and none is kept; the run replays."""
    run_id, _ = limited(shared_esper, 0, "--epochs", 5, "--rows", 600 * 2**20 // 52 // 5, "--batch", 16384)
    replays(shared_esper, run_id)


@pytest.mark.soak
@pytest.mark.cold
@pytest.mark.timeout(3_600)
def test_6_gib_are_learnt_from_in_2_gib(shared_esper):
    rows = 6 * 2**30 // 52 // 20 + 16384  # of an epoch, which takes whole batches
    run_id, peak = limited(shared_esper, 2**31, "--epochs", 20, "--rows", rows, "--batch", 16384)
    (row,) = [each for each in shared_esper.json("runs") if each["run_id"] == run_id]

    assert row["status"] == "completed"
    assert peak < 2**31


@pytest.mark.soak
@pytest.mark.timeout(1_200)
@pytest.mark.filterwarnings("ignore")  # as above: of torch's compiler
@pytest.mark.skipif(which("g++") is None, reason="torch.compile's inductor needs a C++ compiler, and there is no g++")
def test_a_transformer_that_inductor_compiles_grows_and_is_replayed(shared_esper):
    """Every structure is compiled anew, which takes a minute each: the short form goes by its eager backend."""
    run_id = ran(shared_esper, "language", "--epochs", 6, "--steps", 10)
    replays(shared_esper, run_id)


def rank_of(launcher: int, rank: int) -> int:
    """The process id of a rank that `torchrun` started."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # one that has ended meanwhile
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
    raise AssertionError(f"process {launcher} has no rank {rank}")


def test_two_processes_grow_one_network_and_go_on_after_one_was_killed(shared_esper):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    undisturbed = ran(shared_esper, "distributed", "--epochs", 4, by=torchrun)
    process = started(shared_esper, "distributed", "--epochs", 4, by=torchrun)
    while not process.stdout.readline().startswith("epoch 3"):
        assert process.poll() is None, process.stderr.read()
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    process.communicate()
    run_id = shared_esper.json("resume", "last")["run_id"]
    assert run_id != undisturbed
    assert digests(shared_esper, run_id) == digests(shared_esper, undisturbed)


@pytest.mark.parametrize("name", ["distributed", "language", "with_lightning", "with_transformers"])
def test_esper_is_a_few_changed_lines(name):
    """Lines that a script has with Esper and not without, blank ones and the description not counted."""
    texts = [(EXAMPLES / folder / f"{name}.py").read_text().split('"""\n\n', 1)[1] for folder in ("plain", ".")]
    plain, grown = (text.splitlines() for text in texts)
    added = [line for line in difflib.ndiff(plain, grown) if line.startswith("+ ") and line[2:].strip()]
    assert len(added) <= MOST_LINES, added
