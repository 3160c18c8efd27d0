"""What the processes of test_compiled_swap.py run: the forge's own steps, and a run that may use what they made."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch
from torch import nn
from warm import headers

from contracts.leyline.v1.event_pb2 import KernelSwapped
from contracts.leyline.v1.leyline_pb2 import SEED_OPERATION_GERMINATE
from esper.karn.catalogue import find
from esper.leyline.objects import ObjectStore
from esper.testing import REAL_CLOCK, MemoryLog, seed_command, signed
from esper.tezzeret import child, kernel, results
from esper.tezzeret.compiled import pack
from esper.tezzeret.jobs import job_id_of
from esper.tezzeret.pipelines import FAST
from esper.tezzeret.results import Order
from esper.tolaria import engine
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Outside
from esper.tolaria.swaps import swap_as_recorded
from esper.tolaria.tasks import Samples, Site, Task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from esper.urza.artifact import named


def forge(arguments: Sequence[str], messages: TextIO) -> int:
    """Compile and store; so small a kernel would be served eager: here it is called the faster one."""
    folder, cache = map(Path, arguments)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    what = ("BP009", "vector", (6,), find("BP009").resolve({}))
    module = kernel.make(Order(job_id_of(*what, "fast"), *what, "fast", "fast", 1, 2**33, False))
    with headers(folder / "headers"):
        compiled = kernel.compile_form(module, (6,), FAST, time.perf_counter)
    (folder / results.WEIGHTS_FILE).write_bytes(kernel.weights_of(module))
    (folder / results.CACHE_FILE).write_bytes(pack(compiled.cache, cache))
    guard = kernel.guard_of(module, (6,))
    figures = (2.0, 1.0, compiled.compile_ms, compiled.max_difference, (results.Prewarm(64, 1.0, 1.0, 20),))
    head = (job_id_of(*what, "fast"), *what, "fast", 1, "compiled", False, "", guard, results.guard_digest(guard))
    report = results.Report(*head, *figures, child._toolchain())
    ref = results.store(ObjectStore(folder / "objects"), folder, report).ref
    messages.write(json.dumps({"ref": ref}) + "\n")
    return 0


def trainer(arguments: Sequence[str], messages: TextIO) -> int:
    """Train; with the compiled kernel where `mode` is `compiled`, and again at the step where a record has it."""
    folder, cache, ref, mode, *record = arguments
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    objects = ObjectStore(Path(folder) / "objects")

    class Library:
        def want(self, wanted):
            pass

        def take(self, wanted):
            return named(objects, ref, wanted.blueprint_id) if mode != "recorded" else None

    def by_record(run, forward):
        if run.recorder.step == int(record[0]):
            swap_as_recorded(run, KernelSwapped.FromString(bytes.fromhex(record[1])), forward)

    if mode == "recorded":
        engine.swap_kernels = by_record
    log = MemoryLog(objects=objects)
    log.send(signed(seed_command("run", SEED_OPERATION_GERMINATE, "s1", "BP009")))
    config = RunConfig(task="tiny", policy="none", compiled_kernels=mode != "eager")
    train(config, _task(), LiveWorld(Outside(log, REAL_CLOCK, objects, library=Library())), run_id="run")
    facts = [event for event in log.events if event.WhichOneof("body") == "kernel_swapped"]
    said = [event.kernel_swapped for event in facts]
    told = {
        "swaps": [(body.from_form, body.to_form, body.artifact_ref, body.max_difference) for body in said],
        "record": [(str(event.global_step), event.kernel_swapped.SerializeToString().hex()) for event in facts],
        "roots": [body.root.hex() for body in log.bodies("state_digested") if body.occasion == "epoch"],
        "loss": log.bodies("run_finished")[0].test_loss,
        "others_s": resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime,
    }
    messages.write(json.dumps(told) + "\n")
    return 0


def _task() -> Task:
    x = torch.randn(160, 4, generator=torch.Generator().manual_seed(5))
    y = (x[:, 0] > x[:, 1]).long()
    parts = {name: Samples(x[a:b], y[a:b]) for name, a, b in (("train", 0, 64), ("probe", 64, 112), ("test", 112, 160))}
    sites, sizes = (Site("1", "vector"),), {"epochs": 5, "batch_size": 16, "learning_rate": 0.01}
    return Task(name="tiny", make_host=_host, sites=sites, **sizes, **parts)


def _host() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
