"""Where trainers come from: one process that loads torch and forks a trainer per run.

    python -m esper.weatherlight.nursery --data-dir D --trainers '[{"run_id": …, "config": …, "control_fd": 7, …}]'

Forked trainers share what torch's import leaves in memory, which is most of a small trainer: two of them take half the
memory of two processes that import it each, and start a second sooner. SIGTERM ends the trainers after their current
step; the nursery ends when all have, and they die with it if it is killed. Nothing here starts a thread, touches a GPU
or runs a person's code before the fork, so that every trainer begins as a process of its own would.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from esper.weatherlight import trainer
from esper.weatherlight.endpoint import run_folder
from esper.weatherlight.guard import die_with_parent
from esper.weatherlight.plan import Plan


@dataclass(frozen=True, slots=True)
class Order:
    """One trainer to fork: its run, and the pipes over which it is talked to, as inherited file descriptors.

    `config` is a `RunConfig` in JSON, `plan` a `Plan`. The trainer reads the log's address from `control_fd` and writes
    its messages to `messages_fd`, where the nursery adds `{"exit": code}` after its end, negative for a signal.
    """

    run_id: str
    config: str
    plan: str
    control_fd: int
    messages_fd: int


def log_path(data_dir: Path, run_id: str) -> Path:
    """Where a run's trainer logs."""
    return run_folder(data_dir) / f"trainer-{run_id}.log"


def order_text(orders: list[Order]) -> str:
    """The orders as an argument on the command line."""
    return json.dumps([asdict(order) for order in orders])


def main() -> int:
    """Fork the trainers, tell how each ended, and end with the last of them."""
    parser = argparse.ArgumentParser(prog="python -m esper.weatherlight.nursery")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--trainers", required=True)
    options = parser.parse_args()
    orders = [Order(**order) for order in json.loads(options.trainers)]
    _load()
    children: dict[int, Order] = {}
    # Until all are forked a SIGTERM just ends this process, and with it those that are.
    for order in orders:
        pid = os.fork()
        if pid == 0:
            _become_trainer(options.data_dir, order, orders)
        children[pid] = order
    signal.signal(signal.SIGTERM, lambda _number, _frame: _forward(children))
    for order in orders:
        os.close(order.control_fd)
    while children:
        pid, status = os.wait()
        order = children.pop(pid)
        with os.fdopen(order.messages_fd, "w") as messages:
            messages.write(json.dumps({"exit": os.waitstatus_to_exitcode(status)}) + "\n")
    return 0


def _load() -> None:
    """Import all that a trainer needs, and have the collector leave it alone so that its pages stay shared."""
    import torch._dynamo  # noqa: F401, PLC0415 - torch imports it anyway, at the first step of any optimiser

    import esper.tolaria.resume  # noqa: PLC0415 - as the last
    import esper.tolaria.tasks  # noqa: PLC0415
    import esper.tolaria.train  # noqa: F401, PLC0415 - torch takes two seconds; wrong arguments are told before

    gc.collect()
    gc.freeze()


def _become_trainer(data_dir: Path, order: Order, orders: list[Order]) -> NoReturn:
    """Turn this fork into the trainer of `order`; it never returns to what its parent was doing."""
    code = 1
    try:
        os.environ["ESPER_PARENT_PID"] = str(os.getppid())
        die_with_parent()
        log = os.open(log_path(data_dir, order.run_id), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(order.control_fd, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for other in orders:
            os.close(other.control_fd)
            if other is not order:
                os.close(other.messages_fd)
        with os.fdopen(order.messages_fd, "w") as messages:
            code = trainer.run(data_dir, order.run_id, order.config, messages, Plan.from_json(order.plan))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _forward(children: Mapping[int, Order]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
