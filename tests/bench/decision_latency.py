"""How long a decision takes: state published → decision back in the trainer, on the log. `--help` for options.

Fixture: an embedded broker, the decider's process and this one, on one machine. Before every packet a few steps of
telemetry are enqueued, as a training epoch does. Each latency runs from `publish` of the EpochCompleted to the return
of `await_answer` with decision and command; none is cut off or left out. Enqueueing is timed on the same events.
Limits (architecture): p50 ≤ 5 ms, p99 ≤ 18 ms; enqueue ≤ 50 µs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.leyline.signing import KeyRing
from streams.broker.launch import start_broker
from streams.metrics import Metrics
from streams.topics import ensure_topics
from streams.trainer_log import KafkaLog
from tests.bench.table import Row

RUN_ID = "bench"
KEY = "be" * 32


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the log; the command line's options say what each means."""

    decisions: int = 1_000
    steps: int = 5
    seeds: int = 3
    pause_ms: float = 10.0


def rows(*, full: bool = False) -> list[Row]:
    """The architecture's row, as its median and its slowest hundredth."""
    load = Load() if full else Load(decisions=300)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), load)
    fixture = f"embedded broker, decider's process, {load.decisions:,} decisions, none left out"
    return [
        Row(f"state published → decision in the trainer, {part}", figures[f"decision_{part}_ms"], "ms", fixture, limit)
        for part, limit in (("p50", 5.0), ("p99", 18.0))
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=5, help="telemetry events enqueued before each packet")
    parser.add_argument("--seeds", type=int, default=3, help="sites, each with a seed slot, in the packet")
    parser.add_argument("--pause-ms", type=float, default=10.0, help="time between an answer and the next packet")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        load = Load(options.decisions, options.steps, options.seeds, options.pause_ms)
        figures = measure(Path(folder), load)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:<28}{value:>12.3f}\n")


def measure(data_dir: Path, load: Load) -> dict[str, float]:
    """The figures, in the units of their names."""
    broker = start_broker(data_dir)
    asyncio.run(ensure_topics(broker.address))
    decider = subprocess.Popen(
        [sys.executable, "-m", "streams.decider", "--data-dir", str(data_dir), "--brokers", broker.address],
        stdout=subprocess.PIPE,
        env={**os.environ, "ESPER_KEY": KEY},
    )
    try:
        assert decider.stdout is not None
        assert decider.stdout.readline()
        with KafkaLog(broker.address, KeyRing((bytes.fromhex(KEY),)), run_id=RUN_ID, metrics=Metrics()) as log:
            return _run(log, load)
    finally:
        decider.terminate()
        decider.wait()
        broker.stop()


def _run(log: KafkaLog, load: Load) -> dict[str, float]:
    log.publish(_event(event_pb2.RunStarted(task="bench"), 1))
    log.flush()
    answers: list[float] = []
    enqueues: list[float] = []
    for number in range(load.decisions):
        steps = [_event(event_pb2.StepSampled(loss=1.0, step_ms=8.0), 0) for _ in range(load.steps)]
        enqueues += [_timed_publish(log, step) for step in steps]
        packet = _event(_packet(number % 40, load.seeds), number + 2)
        started = time.perf_counter()
        enqueues.append(_timed_publish(log, packet))
        answer = log.await_answer(packet.event_id, timeout_s=60.0)
        answers.append((time.perf_counter() - started) * 1e3)
        assert answer is not None, f"packet {number} was not answered within a minute"
        time.sleep(load.pause_ms / 1e3)
    cuts = statistics.quantiles(answers, n=100, method="inclusive")
    enqueue_cuts = statistics.quantiles(enqueues, n=100, method="inclusive")
    return {
        "decisions": len(answers),
        "decision_first_ms": answers[0],
        "decision_p50_ms": cuts[49],
        "decision_p95_ms": cuts[94],
        "decision_p99_ms": cuts[98],
        "decision_max_ms": max(answers),
        "enqueue_p50_us": enqueue_cuts[49],
        "enqueue_p99_us": enqueue_cuts[98],
        "load_average_1m": os.getloadavg()[0],
    }


def _timed_publish(log: KafkaLog, event: Event) -> float:
    started = time.perf_counter()
    log.publish(event)
    return (time.perf_counter() - started) * 1e6


def _event(body: event_pb2.RunStarted | event_pb2.StepSampled | event_pb2.EpochCompleted, sequence: int) -> Event:
    return new_event(
        body,
        event_id=ids.uuid7(time.time_ns(), os.urandom(10)),
        run_id=RUN_ID,
        producer="trainer",
        recorded_at_ns=time.time_ns(),
        sequence=sequence,
        incarnation=1,
        timeline=1,
    )


def _packet(epoch: int, seeds: int) -> event_pb2.EpochCompleted:
    """A packet like those of the `digits` task; the heuristic germinates on most of them."""
    names = [f"s{number + 1}" for number in range(seeds)]
    options = [
        event_pb2.BlueprintOption(
            blueprint_id=f"BP{number:03}", parameters=64 * number, flops_per_sample=20_000, risk=0.3, residual=True
        )
        for number in range(1, 9)
    ]
    return event_pb2.EpochCompleted(
        state=leyline_pb2.SystemStatePacket(
            version=1,
            current_epoch=epoch,
            validation_accuracy=0.6,
            validation_loss=1.2,
            training_loss=1.1,
            training_metrics={"loss": 1.1, "gradient_norm": 2.0, "samples_per_s": 9_000.0},
        ),
        seeds=[
            event_pb2.SeedObservation(seed_id=name, stage=leyline_pb2.SEED_LIFECYCLE_STAGE_DORMANT) for name in names
        ],
        evidence=[event_pb2.SiteEvidence(seed_id=name, gradient_norm=0.9, activation_norm=3.0) for name in names],
        sites=[
            event_pb2.SiteDescription(
                site=f"blocks.{index}", seed_id=name, shape_kind="image", shape=[8, 8, 8], options=options
            )
            for index, name in enumerate(names)
        ],
        probe_loss_history=[1.4, 1.3, 1.2],
        probe_loss_stderr=0.05,
        epochs_total=80,
        params=700,
        params_host=700,
        params_budget=1_000,
        policy="heuristic",
        policy_seed=epoch,
        epochs_since_structural_change=epoch,
    )


if __name__ == "__main__":
    main()
