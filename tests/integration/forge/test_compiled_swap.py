"""A kernel that was compiled in one process serves in another: nothing is compiled there, and a run comes twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

FORGE = """
import os, sys, time
from pathlib import Path
from esper.karn.catalogue import find
from esper.leyline.objects import ObjectStore
from esper.tezzeret import child, kernel, results
from esper.tezzeret.compiled import pack
from esper.tezzeret.jobs import job_id_of
from esper.tezzeret.results import Order
from esper.tezzeret.pipelines import FAST

folder = Path(sys.argv[1])
what = ("BP009", "vector", (6,), find("BP009").resolve({}))
module = kernel.make(Order(job_id_of(*what, "fast"), *what, "fast", "fast", 1, 2**33, False))
compiled = kernel.compile_form(module, (6,), FAST, time.perf_counter)
(folder / results.WEIGHTS_FILE).write_bytes(kernel.weights_of(module))
(folder / results.CACHE_FILE).write_bytes(pack(compiled.cache, Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])))
guard = kernel.guard_of(module, (6,))
figures = (2.0, 1.0, compiled.compile_ms, compiled.max_difference, (results.Prewarm(64, 1.0, 1.0, 20),))
report = results.Report(
    job_id_of(*what, "fast"), *what, "fast", 1, "compiled", False, "", guard, results.guard_digest(guard), *figures,
    child._toolchain(),
)
print(results.store(ObjectStore(folder / "objects"), folder, report).ref)
"""
"""The forge's own steps, but so small a kernel would be served eager: here it is called the faster one."""

TRAINER = """
import json, resource, sys
from pathlib import Path
import torch
from torch import nn
from contracts.leyline.v1.event_pb2 import KernelSwapped
from contracts.leyline.v1.leyline_pb2 import SEED_OPERATION_GERMINATE
from esper.leyline.objects import ObjectStore
from esper.testing import REAL_CLOCK, MemoryLog, seed_command, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.tasks import Samples, Site, Task
import esper.tolaria.train as loop
from esper.tolaria.outside import Outside
from esper.tolaria.swaps import swap_as_recorded
from esper.tolaria.world import LiveWorld
from esper.urza.artifact import named

objects, ref, mode = ObjectStore(Path(sys.argv[1]) / "objects"), sys.argv[2], sys.argv[3]


class Library:
    def want(self, wanted):
        pass

    def take(self, wanted):
        return named(objects, ref, wanted.blueprint_id) if mode != "recorded" else None


def by_record(run, inputs):
    if run.recorder.step == int(sys.argv[4]):
        swap_as_recorded(run, KernelSwapped.FromString(bytes.fromhex(sys.argv[5])), inputs)


if mode == "recorded":
    loop.swap_kernels = by_record


def host():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


x = torch.randn(160, 4, generator=torch.Generator().manual_seed(5))
y = (x[:, 0] > x[:, 1]).long()
parts = {name: Samples(x[a:b], y[a:b]) for name, a, b in (("train", 0, 64), ("probe", 64, 112), ("test", 112, 160))}
task = Task(
    name="tiny", make_host=host, sites=(Site("1", "vector"),), epochs=5, batch_size=16, learning_rate=0.01, **parts
)
log = MemoryLog(objects=objects)
log.send(signed(seed_command("run", SEED_OPERATION_GERMINATE, "s1", "BP009")))
loop.train(
    RunConfig(task="tiny", policy="none", compiled_kernels=mode != "eager"),
    task, LiveWorld(Outside(log, REAL_CLOCK, objects, library=Library())), run_id="run",
)
facts = [event for event in log.events if event.WhichOneof("body") == "kernel_swapped"]
said = [event.kernel_swapped for event in facts]
swaps = [(body.from_form, body.to_form, body.artifact_ref, body.max_difference) for body in said]
print(json.dumps({
    "swaps": swaps,
    "record": [(str(event.global_step), event.kernel_swapped.SerializeToString().hex()) for event in facts],
    "roots": [body.root.hex() for body in log.bodies("state_digested") if body.occasion == "epoch"],
    "loss": log.bodies("run_finished")[0].test_loss,
    "others_s": resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime,
}))
"""


@pytest.fixture
def python(tmp_path):
    """Runs a program in a process of its own with a folder of its own for what torch compiles; its last line."""

    def run(program, *arguments, name):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / name)}
        command = [sys.executable, "-c", program, str(tmp_path), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    return run


@pytest.mark.timeout(900)
def test_a_compiled_kernel_takes_over_in_another_process_and_the_same_run_comes_again(python, tmp_path):
    ref = python(FORGE, name="forge")

    first, second = (json.loads(python(TRAINER, ref, "compiled", name=f"trainer {n}")) for n in (1, 2))
    record = first["record"][0]
    again = json.loads(python(TRAINER, ref, "recorded", *record, name="replay"))
    eager = json.loads(python(TRAINER, ref, "eager", name="eager"))

    ((before, after, from_ref, size),) = first["swaps"]
    assert (before, after, from_ref) == ("eager", "compiled", ref)
    assert size <= 1e-5
    assert first["roots"] == second["roots"] == again["roots"] != eager["roots"]
    assert first["loss"] == pytest.approx(eager["loss"], abs=1e-4)
    assert eager["swaps"] == []
    assert list((tmp_path / "trainer 1").rglob("*.main.so")) != []
    assert first["others_s"] < 8.0, "a compiler ran"
