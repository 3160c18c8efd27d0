"""The trainer's process: joins the training loop, the log, the object store, the keys and the verifier.

    echo HOST:PORT | python -m esper.weatherlight.trainer --data-dir D --run-id R --config JSON

It prepares (imports torch, loads the data), prints one JSON line `{"prepared": true}`, and begins when it reads the
log's address from stdin: so it prepares while the log starts. An end of stdin instead ends it, because whoever started
it has gone. SIGTERM ends a run after its current step, with its last completed epoch kept. The last line of stdout is
the run's result or its error. `esper run` starts one for the grown run and one for the control, side by side.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from esper.errors import EsperError, InvalidInput
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.tolaria.config import RunConfig
from esper.tolaria.ports import Clock
from streams.health import HealthServer
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.settings import Settings
from streams.trainer_log import KafkaLog


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one run; 0 where it completed, 1 where it failed, 2 where its input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m esper.weatherlight.trainer")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--config", required=True, type=RunConfig.from_json)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    messages = _own_stdout()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    try:
        result = _train(options, messages, stop)
    except InvalidInput as error:
        _say(messages, {"error": str(error), "wrong_input": True})
        return 2
    except EsperError as error:
        _say(messages, {"error": str(error), "wrong_input": False})
        return 1
    _say(messages, {"result": result})
    return 0


def _train(options: argparse.Namespace, messages: TextIO, stop: threading.Event) -> dict[str, Any]:
    """Prepare, wait for the word, train; the result as JSON types."""
    from esper.tolaria.run import find_device  # noqa: PLC0415 - torch takes two seconds; wrong options are told first
    from esper.tolaria.tasks import load_task  # noqa: PLC0415
    from esper.tolaria.train import train  # noqa: PLC0415

    config: RunConfig = options.config
    settings = Settings.load(data=options.data_dir)
    find_device(config.device)
    task = load_task(config.task)
    _say(messages, {"prepared": True})
    brokers = sys.stdin.readline().strip()
    if not brokers:
        raise InvalidInput("nobody waits for this run any more")
    ring = load_key_ring(settings, brokers)
    metrics = Metrics()
    clock = Clock(monotonic=time.monotonic, wall_ns=time.time_ns)
    with (
        KafkaLog(brokers, ring, run_id=options.run_id, metrics=metrics) as log,
        HealthServer("trainer", metrics, checks={"log": log.writer.trouble}),
    ):
        result = train(
            config,
            task,
            log,
            clock=clock,
            objects=ObjectStore(settings.objects),
            verifier=CommandVerifier(ring),
            run_id=options.run_id,
            should_stop=stop.is_set,
        )
    return result.to_dict()


def _own_stdout() -> TextIO:
    """The real stdout for messages alone: what a person's task prints goes to stderr, which is the trainer's log."""
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return messages


def _say(messages: TextIO, message: dict[str, Any]) -> None:
    messages.write(json.dumps(message) + "\n")
    messages.flush()


if __name__ == "__main__":
    raise SystemExit(main())
