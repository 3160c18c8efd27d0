"""The examples as a person starts them, in short form: growth, kill and resume, replay, SQL, the network."""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import which

import pytest
import torch

import esper as package
from projections import open_history
from tests.forked import COLD, Warm, processes

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MOST_LINES = 6


class WithTheirLibraries(Warm):
    """Its processes have imported what the examples do, which takes ten processor seconds."""

    libraries = ("sklearn.datasets", "lightning", "transformers", "transformers.trainer", "torch.distributed.run")


def started(
    esper,
    name: str,
    *arguments: object,
    by: tuple[str, ...] = (),
    folder: Path = EXAMPLES,
    kind: type = WithTheirLibraries,
) -> subprocess.Popen[str]:
    """An example that runs, `by` Python itself or a module of it, its history in the data folder of `esper`."""
    command = (sys.executable, *by, folder / f"{name}.py", *map(str, arguments))
    quiet = {**os.environ, "ESPER_DATA": str(esper.data_dir), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with processes(kind):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=quiet)
    esper.started.append(process)
    return process


def ran(esper, name: str, *arguments: object, **how: object) -> str:
    """The id of the run of an example that came to its end."""
    before = {each["run_id"] for each in esper.json("runs")} if (esper.data_dir / "archive").exists() else set()
    process = started(esper, name, *arguments, **how)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stdout + stderr
    (run_id,) = {each["run_id"] for each in esper.json("runs")} - before
    return run_id


def digests(esper, run_id: str) -> list[tuple[int, bytes]]:
    """The digests that count, by step."""
    with open_history(esper.data_dir / "archive") as history:
        digested = "SELECT DISTINCT global_step, root FROM log.state_digested"
        return history.execute(f"{digested} WHERE run_id = ? AND log_verdict = 1 ORDER BY ALL", [run_id]).fetchall()


def waiting(name: str, go_on: Path) -> Path:
    """The folder of a copy of an example that waits behind its third epoch until there is the file `go_on`.

    Whoever kills it then finds it half-way on any machine. Processes of torchrun leave their ids beside that file.
    """
    waits = f"while epoch == 2 and not os.path.exists({str(go_on)!r}): time.sleep(0.02)"
    leaves = f'open("{go_on}-%s" % distributed.get_rank(), "w").write(str(os.getpid()))'
    lines = ["import os, time", *(EXAMPLES / f"{name}.py").read_text().partition('"""\n\n')[2].splitlines()]
    for number in reversed(range(len(lines))):
        line, indent = lines[number].strip(), " " * (len(lines[number]) - len(lines[number].lstrip()))
        if line.startswith('print(f"epoch {epoch + 1}'):
            lines.insert(number + 1, indent + waits)
        elif line.startswith("distributed.init_process_group("):
            lines.insert(number + 1, indent + leaves)
    copy = go_on.parent / "examples" / f"{name}.py"
    copy.parent.mkdir(exist_ok=True)
    copy.write_text("\n".join(lines) + "\n")
    return copy.parent


def wait_for_third_epoch(process: subprocess.Popen[str]) -> None:
    while not process.stdout.readline().startswith("epoch 3"):
        assert process.poll() is None, process.stderr.read()


def replays(esper, run_id: str) -> None:
    with processes(WithTheirLibraries):  # a replay runs the script, and imports what it does
        process = esper.start("replay", run_id, "--json")
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stdout + stderr
    found = json.loads(stdout.splitlines()[-1])  # above it stands what the script printed
    assert (found["diverged"], found["digests_checked"] > 3) == (False, True), found


@pytest.fixture(scope="module")
def vision(shared_esper) -> str:
    """Started from nothing, as a person does."""
    return ran(shared_esper, "vision", "--epochs", 14, kind=COLD)


def test_a_plain_script_grows(shared_esper, vision):
    """It replays, too: `test_a_script_that_was_killed...` has the same digests, and is replayed."""
    (row,) = [each for each in shared_esper.json("runs") if each["run_id"] == vision]
    assert (row["status"], row["task"], row["epochs_done"]) == ("completed", "vision", 14)
    assert shared_esper.json("sql", "select count(*) as n from seeds")[0]["n"] >= 1
    assert "epoch" in shared_esper("why", vision, "s1").stdout


def test_a_script_that_was_killed_goes_on_to_the_same_digests(shared_esper, vision, go_on):
    process = started(shared_esper, "vision", "--epochs", 14, folder=waiting("vision", go_on))
    wait_for_third_epoch(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    go_on.touch()
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
    images = torch.stack([image for image, _ in script.digits()[2]])
    assert torch.equal(torch.export.export(network, (images,)).module()(images), network(images))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tabular", ("--epochs", 3, "--rows", 16384)),
        ("language", ("--epochs", 3, "--steps", 10, "--backend", "eager")),
        ("with_lightning", ("--epochs", 5)),
        ("with_transformers", ("--epochs", 3)),
    ],
)
def test_the_others_run(shared_esper, name, arguments):
    """One of them is replayed here, because a framework has the loop; all of them after a kill, under `-m soak`."""
    run_id = ran(shared_esper, name, *arguments)
    if name == "with_lightning":
        replays(shared_esper, run_id)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tabular", ("--epochs", 9, "--rows", 16384)),
        ("language", ("--epochs", 9, "--steps", 10, "--backend", "eager")),
        ("with_lightning", ("--epochs", 9)),
        ("with_transformers", ("--epochs", 8)),
    ],
)
def test_the_others_go_on_to_the_same_digests_after_a_kill_and_give_their_network(esper, go_on, name, arguments):
    """Killed in the probe behind the fifth epoch: the place from which it goes on has an order of batches behind it."""
    whole = ran(esper, name, *arguments)
    copy = go_on.parent / f"{name}.py"
    reached = go_on.parent / "reached"
    code = (EXAMPLES / f"{name}.py").read_text()
    for measured in re.findall(r"^def (?:losses|errors)\(.*\n    \"\"\".*\"\"\"\n", code, re.MULTILINE):
        code = code.replace(measured, f"{measured}    wait()\n")
    assert "    wait()\n" in code
    copy.write_text(
        code.replace("import argparse\n", f"import argparse\n{WAIT.format(go_on=go_on, reached=reached)}", 1)
    )
    process = started(esper, name, *arguments, folder=copy.parent)
    while not reached.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    go_on.touch()

    killed = esper.json("resume", "last")["run_id"]
    assert killed != whole
    with open_history(esper.data_dir / "archive") as history:
        (place,) = history.execute("SELECT from_step FROM log.run_resumed WHERE run_id = ?", [killed]).fetchone()
    assert place > 0
    assert digests(esper, killed) == digests(esper, whole)
    replays(esper, killed)
    assert esper("why", killed, "s1").stdout
    assert esper("report", killed, "--to", esper.data_dir / "page.html").returncode == 0
    assert esper("load", killed, "--out", esper.data_dir / "net.safetensors").returncode == 0


WAIT = """import os, time
calls = []
def wait():
    calls.append(1)
    while len(calls) > 6 and not os.path.exists("{go_on}"):
        open("{reached}", "w").close()
        time.sleep(0.05)
"""
"""Stands in an example's copy, whose probe calls it: once before the first epoch, once behind each."""


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


def test_two_processes_grow_one_network_and_go_on_after_one_was_killed(shared_esper, go_on):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    undisturbed = ran(shared_esper, "distributed", "--epochs", 4, by=torchrun)
    process = started(shared_esper, "distributed", "--epochs", 4, by=torchrun, folder=waiting("distributed", go_on))
    wait_for_third_epoch(process)
    os.kill(int(Path(f"{go_on}-1").read_text()), signal.SIGKILL)
    process.communicate()
    go_on.touch()
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
