"""How long a learned policy takes: graph, network, and the epoch hook of a run that asks it over the log.

    python -m tests.bench.learned_policy

The network is fresh: what its weights are moves no time. Hooks are the trainer's own figures of `esper run --policy
learned`, in a data folder in which that network was promoted, with all processes beside it; the decider's first second
of a learned policy, torch's import, is over then, because a promotion is loaded when it is read.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from contracts.leyline.v1.event_pb2 import (
    BlueprintOption,
    EpochCompleted,
    PolicyPromoted,
    SeedObservation,
    SiteDescription,
    SiteEvidence,
)
from contracts.topics import POLICIES
from esper.kasmina.lifecycle import DORMANT
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.leyline.signing import KeyRing
from esper.tamiyo import weights
from esper.tamiyo.actions import legal_actions
from esper.tamiyo.graph import build
from esper.tamiyo.network import make
from esper.tamiyo.policies import learned
from esper.weatherlight import client
from projections import open_history
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.objects import object_store
from streams.producer import Publisher
from streams.reader import past
from streams.settings import Settings
from tests.bench.decision_latency import measured_in, percentiles
from tests.bench.table import Row

OPTIONS = 35
SITES = (3, 10, 100)
LIMITS_MS = {"p50": 10.0, "p99": 18.0}


def state(sites: int) -> EpochCompleted:
    """A packet of so many free slots, each of which may grow any of 35 blueprints."""
    names = [f"s{number}" for number in range(1, sites + 1)]
    options = [
        BlueprintOption(blueprint_id=f"BP{n:03d}", parameters=40 * n, flops_per_sample=900 * n, risk=n / 99)
        for n in range(1, OPTIONS + 1)
    ]
    return EpochCompleted(
        seeds=[SeedObservation(seed_id=name, stage=DORMANT) for name in names],
        evidence=[
            SiteEvidence(seed_id=name, gradient_norm=0.1, activation_norm=9.0, activation_rank=4) for name in names
        ],
        sites=[
            SiteDescription(site=name, seed_id=name, shape_kind="image", shape=(8, 9, 9), depth=at, options=options)
            for at, name in enumerate(names)
        ],
        probe_loss_history=[1.0] * 20,
        epochs_total=40,
        params=9_000,
        params_host=9_000,
        params_budget=9_000,
    )


def times_ms(each: Callable[[], object], rounds: int) -> dict[str, float]:
    """Processor time of each round: what else the machine does is not in it."""
    found = []
    for _ in range(rounds):
        began = time.process_time()
        each()
        found.append(1e3 * (time.process_time() - began))
    cuts = percentiles(found)
    return {"p50": cuts["p50"], "p95": sorted(found)[int(0.95 * rounds)], "p99": cuts["p99"]}


def rows(*, full: bool = False) -> list[Row]:
    """Graph and advice for each number of sites, then the hooks of runs over the log."""
    rounds, found = 400 if full else 100, []
    torch.set_num_threads(1)
    policy = learned.policy(weights.save(make(), "1.0.0"))
    for sites in SITES:
        packet = state(sites)
        actions, mask = legal_actions(packet, policy.action_set)
        policy.advise(packet, actions, mask)
        gc.collect()
        gc.freeze()  # as the decider's process does
        fixture = f"{sites} sites x {OPTIONS} blueprints, {rounds} rounds, processor time, one thread"
        graph = times_ms(lambda: build(packet, actions), rounds)  # noqa: B023 - called at once
        advice = times_ms(lambda: policy.advise(packet, actions, mask), rounds)  # noqa: B023 - called at once
        found.append(Row("learned policy, graph, p95", graph["p95"], "ms", fixture, 2.0))
        found.append(Row("learned policy, graph and network, p99", advice["p99"], "ms", fixture, 5.0))
    hooks = over_the_log(runs=5 if full else 1)
    fixture = f"`esper run --no-control --policy learned` with all its processes, {len(hooks)} hooks, none left out"
    cuts = percentiles(hooks)
    hook = [
        Row(f"hook with a learned policy, {name}", cuts[name], "ms", fixture, LIMITS_MS[name]) for name in LIMITS_MS
    ]
    return found + hook


def over_the_log(runs: int) -> list[float]:
    """The hooks of `runs` runs that a promoted policy decides."""
    with tempfile.TemporaryDirectory() as folder, client.join(Path(folder), client="bench", brokers=None) as lease:
        lease.wait_ready()
        asyncio.run(_promote(Path(folder), lease.brokers))
        hooks = []
        for seed in range(runs):
            command = [sys.executable, "-P", "-m", "esper.cli", "run", "--json", "--data-dir", folder]
            options = ["--seed", str(seed), "--no-control", "--policy", "learned"]
            ran = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
            if ran.returncode != 0:
                raise SystemExit(f"esper run ended with {ran.returncode}: {ran.stderr.strip().splitlines()[-1:]}")
        with open_history(Path(folder) / "archive") as history:
            hooks = measured_in(history)["latency_ms"]
    return hooks


async def _promote(folder: Path, brokers: str) -> None:
    """Promote a fresh network, and wait until a decider says that it serves."""
    settings = Settings.load(data=folder)
    ring = load_key_ring(settings, brokers)
    ref = object_store(folder).put(weights.save(make(), "1.0.0"))
    body = PolicyPromoted(policy_id="learned", policy_version="1.0.0", by="bench", weights_ref=ref)
    event = new_event(
        body, event_id=ids.derived_id(ref.encode(), "bench"), run_id="", producer="bench", recorded_at_ns=time.time_ns()
    )
    publisher = Publisher(brokers, ring, Metrics())
    await publisher.start()
    await publisher.publish([event])
    await publisher.stop()
    async with asyncio.timeout(60):
        while not await _loaded(brokers, ring):  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.5)


async def _loaded(brokers: str, ring: KeyRing) -> bool:
    return bool([each async for each in past(brokers, ring, POLICIES) if each.WhichOneof("body") == "policy_loaded"])


if __name__ == "__main__":
    for row in rows(full="--full" in sys.argv):
        sys.stdout.write(f"{row.what}: {row.measured:.2f} {row.unit} ({row.fixture}) {row.verdict}\n")
