"""Tamiyo's agent: a state packet comes in, the answer goes out. It holds no logic.

What a learned policy decides is computed in a thread of its own, off the loop that reads the log; others take less time
than the hand-over.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from contracts.leyline.v1.event_pb2 import EpochCompleted
from contracts.topics import COMMANDS, REPORTS, RUNS
from esper.leyline.envelope import Event, new_event
from esper.leyline.objects import ObjectStore
from esper.tamiyo.answer import answer
from esper.tamiyo.serving import LEARNED, SMALL, Serving
from streams.agents.promotions import PROCESS, Promotions
from streams.app import add_agent
from streams.metrics import Metrics
from streams.objects import object_store
from streams.process import AgentContext
from streams.producer import Publisher
from streams.reader import Intake
from streams.records import Record, outgoing

WARM_UP_ROUNDS: Final = 5
_DUMMY: Final = EpochCompleted()
_DUMMY.CopyFrom(SMALL)
_DUMMY.policy, _DUMMY.policy_seed = "heuristic", 1

Settled = Callable[[int], Awaitable[None]]


class Decider:
    """Answers packets: large observations into the object store first, then the events in order, acknowledged."""

    def __init__(
        self, publisher: Publisher, objects: ObjectStore, metrics: Metrics, serving: Serving, settled: Settled
    ) -> None:
        """`settled` returns once the learned policies in force at a time are loaded: their packets wait for that."""
        self._publisher = publisher
        self._objects = objects
        self._metrics = metrics
        self._serving = serving
        self._settled = settled
        self._thread = ThreadPoolExecutor(1, "tamiyo-learned")

    async def handle(self, event: Event, record: Record) -> None:
        """Answer an EpochCompleted; of other facts only a run's start matters, where a learned policy is to decide."""
        body = event.WhichOneof("body")
        if body == "run_started" and event.run_started.policy == LEARNED:
            self._thread.submit(self._serving.prepare, event.recorded_at_ns, event.run_id)
        if body != "epoch_completed":
            return
        started = time.perf_counter()
        decide = partial(answer, event, now_ns=time.time_ns(), monotonic=time.perf_counter, serving=self._serving)
        if event.epoch_completed.policy == LEARNED:
            await self._settled(event.recorded_at_ns)
            answered = await asyncio.get_running_loop().run_in_executor(self._thread, decide)
        else:
            answered = decide()
        self._metrics.observe("esper_tamiyo_inference_latency_seconds", time.perf_counter() - started)
        for content in answered.objects:
            await asyncio.to_thread(self._objects.put, content)
        await self._publisher.publish(answered.events, partition=record.partition)
        self._metrics.observe("esper_tamiyo_answer_latency_seconds", time.perf_counter() - started)

    async def warm_up(self) -> None:
        """Answer a made-up packet without publishing: the first decision then costs what every other does."""
        now_ns = time.time_ns()
        packet = new_event(_DUMMY, event_id=bytes(16), run_id="warm-up", producer="trainer", recorded_at_ns=now_ns)
        for _ in range(WARM_UP_ROUNDS):
            for event in answer(packet, now_ns=now_ns, monotonic=time.perf_counter).events:
                outgoing(event)
        await self._publisher.warm_up([COMMANDS.name, REPORTS.name])


_tasks: set[asyncio.Task[None]] = set()
logger = logging.getLogger(__name__)


async def setup(context: AgentContext) -> None:
    """Tamiyo's agent on `esper.runs`, warmed up, and what loads promoted policies beside it."""
    objects = object_store(context.settings.data)
    serving = Serving(objects, process=PROCESS, freshness_s=context.settings.update_freshness_s)
    promotions = Promotions(serving, context.publisher, context.metrics)
    decider = Decider(context.publisher, objects, context.metrics, serving, promotions.settled)
    intake = Intake("tamiyo", context.ring, context.publisher, context.metrics, decider.handle)
    add_agent(context.app, "tamiyo", [RUNS], intake.take)
    await decider.warm_up()
    task = asyncio.create_task(promotions.follow(context.brokers, context.ring))
    _tasks.add(task)
    task.add_done_callback(_ended)


def _ended(task: asyncio.Task[None]) -> None:
    """A decider that does not hear of promotions must not go on: it ends, and its supervisor starts another."""
    _tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("promotions are not followed any more", exc_info=error)
        signal.raise_signal(signal.SIGTERM)
