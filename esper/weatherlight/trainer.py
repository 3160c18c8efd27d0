"""The trainer's process: joins the training loop, the log, the object store, the keys and the verifier.

It prepares (loads the data and the model's code), says `{"prepared": true}`, and begins when it reads the log's address
from stdin: so it prepares while the log starts. An end of stdin instead ends it, because whoever started it has gone.
SIGTERM ends a run after its current step, with its last completed epoch kept. Its last message is the run's result or
its error. `esper run` has its fork server fork one for the grown run and one for the control, side by side; by hand:

    echo HOST:PORT | python -m esper.weatherlight.trainer --data-dir D --run-id R --config '{"task": "digits"}'
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TextIO

from esper.errors import EsperError, InvalidInput
from esper.leyline.names import checked
from esper.leyline.verifier import CommandVerifier
from esper.tolaria.config import RunConfig
from esper.tolaria.fork_change import read_change
from esper.tolaria.outside import Outside
from esper.tolaria.own_code import told
from esper.tolaria.script import SOURCE
from esper.weatherlight.beginning import Plan, check_new, partition_in, read_recorded, trace_file
from esper.weatherlight.connected import connected, connected_locally
from esper.weatherlight.forkserver import preloaded
from esper.weatherlight.said import Messages, without_a_terminal
from streams.local_log import LocalLog
from streams.objects import object_store
from streams.settings import Settings
from streams.trainer_log import KafkaLog

NEW: Final = Plan(fresh=True)


class StopFlag:
    """Whether the run is to stop, asked before every step; `steps` are when it was asked first and last."""

    def __init__(self) -> None:
        self.steps: tuple[float, float] | None = None
        self._stop = False

    @property
    def asked(self) -> bool:
        """Whether it was set, which is not asking before a step."""
        return self._stop

    def set(self) -> None:
        """Stop before the next step."""
        self._stop = True

    def __call__(self) -> bool:
        """True once it was set."""
        now = time.monotonic()
        self.steps = (self.steps[0] if self.steps is not None else now, now)
        return self._stop


def run(arguments: Sequence[str], messages: TextIO) -> int:
    """Train one run; the exit code: 0 where it came to a result, 1 where it failed, 2 where its input is wrong.

    `messages` takes one JSON object a line.
    """
    parser = argparse.ArgumentParser(prog="python -m esper.weatherlight.trainer")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--config", default="{}", help="a RunConfig in JSON; what it leaves out has its default")
    parser.add_argument("--plan", default="{}", help="how it begins, in JSON; a new run by default")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    stop = StopFlag()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    tell, control = Messages(messages), sys.stdin
    if messages is not sys.stdout:
        without_a_terminal(tell)

    def brokers() -> str:
        tell({"prepared": True})
        return control.readline().strip()

    def train() -> dict[str, Any]:
        config, plan = RunConfig.from_request(options.config), Plan.from_json(options.plan)
        return _train(options.data_dir, checked(options.run_id, "the run id"), config, brokers, plan, stop=stop)

    code, message = _carried_out(train, stop)
    tell(message)
    return code


def train_here(
    data_dir: Path, run_id: str, config: RunConfig, brokers: Callable[[], str], stop: StopFlag, *, plan: Plan = NEW
) -> dict[str, Any]:
    """Train a run in this process; the last message that its own process would have sent.

    `brokers` is called once everything is prepared, and gives the log's address. The terminal stays the caller's.
    """
    _, message = _carried_out(lambda: _train(data_dir, run_id, config, brokers, plan, stop=stop), stop)
    return message


def _carried_out(train: Callable[[], dict[str, Any]], stop: StopFlag) -> tuple[int, dict[str, Any]]:
    """The exit code, and the message of what a run came to."""
    try:
        result = train()
    except InvalidInput as error:
        if error.__cause__ is not None:  # what a person's own code raised
            traceback.print_exception(error.__cause__)
        return 2, {"error": str(error), "wrong_input": True, "traceback": error.__cause__ is not None}
    except EsperError as error:
        return 1, {"error": str(error), "wrong_input": False}
    except Exception as error:  # noqa: BLE001 - of a person's model, anything; its log has the traceback
        with contextlib.suppress(OSError):  # its log may lie on the full disk that ended it
            traceback.print_exc()
        return 1, {"error": told(error), "wrong_input": False, "traceback": True}
    torch_import_s = sum(preloaded.get(module, 0.0) for module in ("torch", "torch._dynamo"))
    return 0, {"result": result, "steps": stop.steps, "torch_import_s": torch_import_s}


def _train(
    data_dir: Path, run_id: str, config: RunConfig, brokers_of: Callable[[], str], plan: Plan, *, stop: StopFlag
) -> dict[str, Any]:
    """Prepare, wait for the word, train; the result as JSON types."""
    from esper.tolaria.dry_run import try_task  # noqa: PLC0415 - torch is loaded by now
    from esper.tolaria.new_run import find_device, find_pool  # noqa: PLC0415
    from esper.tolaria.resume import fork_run, resume_run  # noqa: PLC0415
    from esper.tolaria.tasks import load_task, recorded_task  # noqa: PLC0415
    from esper.tolaria.train import Trainable, mended, steps_of_epoch, train, trained_in, with_arguments  # noqa: PLC0415
    from esper.tolaria.world import LiveWorld  # noqa: PLC0415
    from esper.weatherlight.ranks import beside  # noqa: PLC0415

    settings = Settings.load(data=data_dir)
    objects = object_store(settings.data)
    find_device(config.device)
    find_pool(config)
    if config.compiled_kernels:
        compiled = tempfile.TemporaryDirectory(prefix="compiled-", dir=settings.run_folder)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled.name
    new = plan.begin == "start"
    task: Trainable | None = None  # a script makes its own model and data, once the run's record is there
    if new:
        task = recorded_task(config.task, plan.source, objects) if plan.source else load_task(config.task)
        if task.source.startswith("file:"):
            try_task(task, find_device(config.device), config.batch_size)
    elif plan.source != SOURCE:
        task = recorded_task(config.task, plan.source, objects)
    archive = settings.data / "archive"
    with ExitStack() as stack:
        outside, log, verifier = _joined(stack, settings, run_id, plan, brokers_of, stop=stop)
        if plan.profile:
            outside = _profiled(stack, outside, trace_file(settings.data, run_id))
        if plan.begin == "start":
            assert task is not None  # a script is started by its owner, and only goes on here
            return train(config, task, LiveWorld(outside), run_id=run_id).to_dict()
        if plan.begin == "resume":
            recorded, script = read_recorded(archive, run_id, log.ends), None
            trained = task or trained_in(recorded, objects, beside)
            if plan.with_my_file:
                trained, script = mended(recorded, trained, objects)
            return resume_run(recorded, trained, outside, log, verifier, script=script).to_dict()
        parent = read_recorded(archive, plan.parent, {})
        trained = task or trained_in(parent, objects, beside)
        if plan.begin == "again":
            trained, steps = with_arguments(trained, plan.arguments), steps_of_epoch(parent)
            return train(config, trained, LiveWorld(outside), run_id=run_id, fresh_steps=steps).to_dict()
        change = read_change(plan.change)
        return fork_run(parent, run_id, trained, outside, step=plan.step, change=change).to_dict()


def _joined(
    stack: ExitStack, settings: Settings, run_id: str, plan: Plan, brokers_of: Callable[[], str], *, stop: StopFlag
) -> tuple[Outside, KafkaLog | LocalLog, CommandVerifier]:
    """The run's outside, its log and its verifier, once the log is there where it has one."""
    if plan.local:
        return connected_locally(stack, settings, run_id, stop=stop)
    brokers, archive = brokers_of(), settings.data / "archive"
    if not brokers:
        raise InvalidInput("nobody waits for this run any more")
    archived = check_new(archive, run_id) if plan.begin == "start" and not plan.fresh else None
    partition = partition_in(archive, run_id) if plan.begin == "resume" else None
    return connected(stack, settings, brokers, run_id, archived=archived, partition=partition, stop=stop)


def _profiled(stack: ExitStack, outside: Outside, file: Path) -> Outside:
    """The outside, watched until `stack` is closed; then the trace is written to `file`."""
    from esper.tolaria.profile import Profile  # noqa: PLC0415 - few runs are profiled

    return stack.enter_context(Profile(outside.clock, file)).outside(outside)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], sys.stdout))
