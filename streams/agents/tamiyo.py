"""Tamiyo's agent: a state packet comes in, the answer goes out. It holds no logic."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from contracts.leyline.v1.event_pb2 import (
    BlueprintOption,
    EpochCompleted,
    SeedObservation,
    SiteDescription,
    SiteEvidence,
)
from contracts.leyline.v1.leyline_pb2 import SEED_LIFECYCLE_STAGE_DORMANT, SystemStatePacket
from contracts.topics import COMMANDS, REPORTS, RUNS
from esper.leyline.envelope import Event, new_event
from esper.leyline.objects import ObjectStore
from esper.tamiyo.answer import answer
from streams.app import add_agent
from streams.metrics import Metrics
from streams.objects import object_store
from streams.process import AgentContext
from streams.producer import Publisher
from streams.reader import Intake
from streams.records import Record, outgoing

WARM_UP_ROUNDS: Final = 5
_DUMMY: Final = EpochCompleted(
    state=SystemStatePacket(version=1, current_epoch=1, validation_loss=1.0, training_loss=1.0),
    seeds=[SeedObservation(seed_id="s1", stage=SEED_LIFECYCLE_STAGE_DORMANT)],
    evidence=[SiteEvidence(seed_id="s1", gradient_norm=1.0, activation_norm=1.0, activation_rank=2.0, descent=1.0)],
    sites=[
        SiteDescription(
            site="body",
            seed_id="s1",
            shape_kind="vector",
            shape=[8],
            options=[BlueprintOption(blueprint_id="BP001", parameters=64, flops_per_sample=128, residual=True)],
        )
    ],
    probe_loss_history=[1.0],
    epochs_total=10,
    params=1_000,
    params_host=1_000,
    params_budget=1_000,
    policy="heuristic",
    policy_seed=1,
)


class Decider:
    """Answers packets: large observations into the object store first, then the events in order, acknowledged."""

    def __init__(self, publisher: Publisher, objects: ObjectStore, metrics: Metrics) -> None:
        self._publisher = publisher
        self._objects = objects
        self._metrics = metrics

    async def handle(self, event: Event, _record: Record) -> None:
        """Answer an EpochCompleted; every other fact is none of Tamiyo's business."""
        if event.WhichOneof("body") != "epoch_completed":
            return
        started = time.perf_counter()
        answered = answer(event, now_ns=time.time_ns(), monotonic=time.perf_counter)
        self._metrics.observe("esper_tamiyo_inference_latency_seconds", time.perf_counter() - started)
        for content in answered.objects:
            await asyncio.to_thread(self._objects.put, content)
        await self._publisher.publish(answered.events)
        self._metrics.observe("esper_tamiyo_answer_latency_seconds", time.perf_counter() - started)

    async def warm_up(self) -> None:
        """Answer a made-up packet without publishing: the first decision then costs what every other does."""
        now_ns = time.time_ns()
        packet = new_event(_DUMMY, event_id=bytes(16), run_id="warm-up", producer="trainer", recorded_at_ns=now_ns)
        for _ in range(WARM_UP_ROUNDS):
            for event in answer(packet, now_ns=now_ns, monotonic=time.perf_counter).events:
                outgoing(event)
        await self._publisher.warm_up([COMMANDS.name, REPORTS.name])


async def setup(context: AgentContext) -> None:
    """Tamiyo's agent on `esper.runs`, warmed up."""
    decider = Decider(context.publisher, object_store(context.settings.data), context.metrics)
    intake = Intake("tamiyo", context.ring, context.publisher, context.metrics, decider.handle)
    add_agent(context.app, "tamiyo", [RUNS], intake.take)
    await decider.warm_up()
