"""One job trained in process, and the row that comes of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from contracts.leyline.v1.leyline_pb2 import SEED_OPERATION_GERMINATE
from esper.leyline.envelope import Event, body_name
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import Signed
from esper.testing import REAL_CLOCK, MemoryLog, command_event, signed
from esper.tolaria.outside import Outside
from esper.tolaria.static import germinate
from esper.tolaria.structure import Piece, structure_at
from esper.tolaria.tasks import Task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from tests.bench.growth.jobs import Germination, Job, fitted, task_of

RUN_ID: Final = "bench"
TRIES: Final = 3


class ScriptedLog(MemoryLog):
    """A log on which a person's germinations arrive, each right after the epoch that it names; 0 is the start.

    One that is refused is sent again after the next epoch, for its slot may be yet to come; `refused` has what was
    refused last.
    """

    def __init__(self, objects: ObjectStore, script: Sequence[Germination]) -> None:
        super().__init__(objects=objects)
        self.refused: dict[str, str] = {}
        self._waiting = list(script)
        self._sent: dict[bytes, Germination] = {}
        self._epoch = 0

    def publish(self, event: Event) -> None:
        """Append the event, and notice what became of the germinations."""
        super().publish(event)
        name = body_name(event)
        if name == "epoch_completed":
            self._epoch = event.epoch
        elif name == "command_applied":
            self._sent.pop(event.command_applied.command_id, None)
        elif name == "command_rejected":
            germination = self._sent.pop(event.command_rejected.command_id, None)
            if germination is not None:
                self.refused[germination[1].seed_id] = event.command_rejected.reason
                self._waiting.append((self._epoch + 1, germination[1]))

    def take_commands(self) -> list[Signed]:
        """The germinations that are due."""
        due = [each for each in self._waiting if each[0] <= self._epoch]
        self._waiting = [each for each in self._waiting if each[0] > self._epoch]
        for germination in due:
            event = command_event(RUN_ID, germinate(germination[1]))
            self._sent[event.event_id] = germination
            self.send(signed(event))
        return super().take_commands()


def run(job: Job) -> dict[str, Any]:
    """Train the job and return its row; a budget is kept by training again with fewer steps, three times at most."""
    task = task_of(job.task, job.size)
    full = task.epochs * task.steps(task.batch_size)
    steps = job.steps or full
    began, clock = time.process_time(), time.monotonic()
    for _attempt in range(TRIES):
        row, spent = _train(job, task, steps)
        if not job.budget or spent <= job.budget:
            break
        steps = max(1, int(0.98 * steps * job.budget / spent))
    return row | {"cpu_s": time.process_time() - began, "wall_s": time.monotonic() - clock}


def _train(job: Job, task: Task, steps: int) -> tuple[dict[str, Any], float]:
    """The row and the FLOPs of one training; the network is evaluated on the set that the job names."""
    epochs, per_epoch = fitted(steps, task.steps(task.batch_size))
    evaluated = replace(task, test=task.probe if job.on == "probe" else task.test, steps_per_epoch=per_epoch)
    config = replace(job.config(), epochs=epochs)
    with tempfile.TemporaryDirectory() as folder:
        objects = ObjectStore(Path(folder))
        log = ScriptedLog(objects, job.script)
        result = train(config, evaluated, LiveWorld(Outside(log, REAL_CLOCK, objects)), run_id=RUN_ID)
        network = structure(log.events, objects)
    flops = dict(result.flops) | {"rewound": rewound(log.events)}
    row = {
        "task": job.task,
        "arm": job.arm,
        "schedule": job.schedule,
        "seed": job.seed,
        "on": job.on,
        "size": job.size,
        "rate": job.rate,
        "config": job.digest(),
        "job": job.what(),
        "status": result.status,
        "accuracy": result.val_accuracy,
        "loss": result.test_loss,
        "params_host": result.params_host,
        "params": result.params_final,
        "epochs": epochs,
        "steps": epochs * per_epoch,
        "flops": flops,
        "fates": result.fates,
        **result.seeds,
        "germinations": [(epoch, asdict(piece)) for epoch, piece in germinations(log.events)],
        "structure": [asdict(piece) for piece in network],
        "refused": log.refused,
    }
    return row, sum(result.flops.values())


def germinations(events: Sequence[Event]) -> list[Germination]:
    """What germinated, in order, what was undone later included."""
    commands = {event.event_id: event.adaptation_command for event in events if event.HasField("adaptation_command")}
    found = []
    for event in events:
        if body_name(event) == "command_applied" and event.command_applied.operation == SEED_OPERATION_GERMINATE:
            applied, command = event.command_applied, commands.get(event.command_applied.command_id)
            annotations = {} if command is None else dict(command.annotations)
            piece = Piece(applied.seed_id, applied.blueprint_id, dict(applied.parameters), annotations)
            found.append((event.epoch, piece))
    return found


def structure(events: Sequence[Event], objects: ObjectStore) -> tuple[Piece, ...]:
    """What is part of the final network beside the host that the run began with."""
    started = next(event.run_started for event in events if event.HasField("run_started"))
    saved = [event.checkpoint_saved for event in events if event.HasField("checkpoint_saved")]
    return structure_at(objects, saved[-1].ref, started.sites)


def rewound(events: Sequence[Event]) -> float:
    """FLOPs, of every kind, that rewinds took back.

    An epoch whose end was a failed proof has no figure of its own: it is in that of the epoch after the rewind, which
    is taken to have cost itself what the one before the germination did.
    """
    spent, last, after_rewind = 0.0, 0, False
    kept = {0: 0.0}
    for event in events:
        name = body_name(event)
        if name == "epoch_completed":
            last, own = event.epoch, event.epoch_completed.flops - spent
            if after_rewind and last > 1:
                own = min(own, kept[last - 1] - kept[last - 2])
            kept[last], spent, after_rewind = kept[last - 1] + own, event.epoch_completed.flops, False
        elif name == "rolled_back":
            after_rewind = event.rolled_back.level == "rewind"
            if not after_rewind:  # a failure's epochs are lost, and were not rewound
                kept[event.rolled_back.to_epoch] = kept[last]
            last = event.rolled_back.to_epoch
    return spent - kept[last]
