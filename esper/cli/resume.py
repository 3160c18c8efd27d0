"""`esper resume`: claim a run that was interrupted or whose trainer died, train it again to where it was, and go on."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from esper.cli import RUN_FAILED
from esper.cli.folder import wait_for_archive
from esper.cli.history import CONTROL_SUFFIX, control_of, history_of, resolve
from esper.cli.output import complain, say, say_json
from esper.cli.replay import recorded_run
from esper.cli.run import RunRequest
from esper.cli.trainers import Trainers
from esper.cli.training import RunCommand
from esper.errors import InvalidInput
from esper.record import Recorded
from esper.tolaria.config import RunConfig
from esper.weatherlight import client
from esper.weatherlight.beginning import Plan
from projections.run_queries import EventReader, run_ids
from streams.consumer import ends_of
from streams.keys import load_key_ring
from streams.settings import Settings

ARCHIVE_S: Final = 30.0


def resume_command(data_dir: Path, word: str, *, as_json: bool) -> int:
    """Resume a run, and its control run where that was not over either; the exit code.

    Raises InvalidInput for a run that is over or that goes on, and LogUnavailable.
    """
    since = time.monotonic()
    settings = Settings.load(data=data_dir)
    with history_of(data_dir):
        pass  # a folder without a history is said to be one before anything is started for it
    ring = load_key_ring(settings)
    with joined(data_dir, settings, f"esper resume {word}") as lease:
        with history_of(data_dir) as history:
            known = run_ids(history)
            run_id = resolve(word, known)
            _check_alone(lease, run_id)
            family = [each for each in (run_id, control_of(run_id)) if each in known]
            recorded = {each: recorded_run(history, each) for each in family}
            before = {each: list(EventReader(history, each).new()) for each in family}
        going = [each for each in family if _goes_on(recorded[each])]
        if not going:
            recorded[run_id].last_accepted()  # says why
        configs = {each: RunConfig.from_json(recorded[each].root.config_json) for each in going}
        plans = {each: Plan("resume", source=recorded[each].root.task_source) for each in going}
        names = {run_id: "grown", control_of(run_id): "control"}
        request = request_of(data_dir, configs[going[0]], "resume", as_json=as_json)
        with Trainers(data_dir) as trainers:
            trainers.start(names, configs, plans)
            command = RunCommand(request, ring, lease, trainers, before=before, told=family)
            failure = command.train()
            if failure:
                complain(failure + command.kept)
                return RUN_FAILED
    summary = command.summary(since)
    say_json(summary.to_json()) if as_json else say(summary.text())
    return 0


@contextmanager
def joined(data_dir: Path, settings: Settings, name: str) -> Iterator[client.Lease]:
    """A lease on the folder's processes, once they are ready and the archive has all that lies on the log by then."""
    with client.join(data_dir, client=name, brokers=settings.brokers) as lease:
        lease.wait_ready()
        wait_for_archive(data_dir, ends_of(lease.brokers), ARCHIVE_S, lambda: None)
        yield lease


def request_of(data_dir: Path, config: RunConfig, verb: str, *, as_json: bool) -> RunRequest:
    """What `esper run` would have been asked for this configuration."""
    return RunRequest(
        data_dir=data_dir,
        task=config.task,
        epochs=config.epochs,
        seed=config.seed,
        policy=config.policy,
        lifecycle=config.seeds.lifecycle,
        device=config.device,
        pool=config.pool,
        compiled_kernels=config.compiled_kernels,
        drill=(),
        ignore_history=True,
        control=False,
        as_json=as_json,
        verb=verb,
    )


def _goes_on(recorded: Recorded) -> bool:
    try:
        recorded.last_accepted()
    except InvalidInput:
        return False
    return True


def _check_alone(lease: client.Lease, run_id: str) -> None:
    """Raise InvalidInput where another command trains this run now, so that nobody takes it over by mistake."""
    lease.poll()
    command = trained_by(run_id, lease.status.clients)
    if command:
        raise InvalidInput(
            f"run {run_id} goes on: `{command}` trains it now; stop that first, or wait until it is over"
        )


def trained_by(run_id: str, clients: Collection[str]) -> str:
    """Which command of those that hold a lease began this run and trains it, or the run that it is the control of."""
    name = run_id.removesuffix(CONTROL_SUFFIX)
    return next((verb for verb in ("esper run", "esper fork") if f"{verb} {name}" in clients), "")
