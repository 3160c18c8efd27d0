"""A run whose history lies beside no log (`esper.grow(log=None)`): it is gone on with in the command's own process.

Its facts are all in one place of the archive then, and nothing is started, as when it began.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from contracts.topics import LOCAL
from esper.cli import INTERRUPTED, RUN_FAILED
from esper.cli.history import find_run, history_of
from esper.cli.in_process import stopping
from esper.cli.output import complain, say, say_json
from esper.cli.replay import recorded_run
from esper.cli.resume import living_trainer, plan_of, tell_changed_files
from esper.cli.static_run import summary_of
from esper.cli.summary import Cost
from esper.cli.trainers import Outcome, outcome_of
from esper.cli.trust import check_code
from esper.errors import InvalidInput
from esper.tolaria.config import RunConfig
from esper.weatherlight.beginning import Plan
from projections.run_queries import partition_of_run
from streams.settings import Settings


def is_local(data_dir: Path, word: str) -> bool:
    """Whether the run that is meant has no log; not where the archive does not know it.

    Raises InvalidInput for settings that are wrong, before the folder is looked at, and for a folder without a history.
    """
    Settings.load(data=data_dir)
    with history_of(data_dir) as history:
        try:
            return partition_of_run(history, find_run(history, word)) == LOCAL
        except InvalidInput:
            return False


def train_locally(data_dir: Path, name: str, run_id: str, config: RunConfig, plan: Plan) -> Outcome:
    """Train a run to its end without a log, in this process; raises InvalidInput where its input is wrong.

    Ctrl-C ends it after its step, and `esper resume` goes on with it.
    """
    from esper.weatherlight.trainer import train_here  # noqa: PLC0415 - torch

    with stopping() as stop:
        said = train_here(data_dir, run_id, config, lambda: "", stop, plan=replace(plan, local=True))
    outcome = outcome_of(name, said)
    if outcome.wrong_input:
        raise InvalidInput(outcome.error)
    return outcome


def resume_locally(data_dir: Path, word: str, *, trust: bool, with_my_file: bool, as_json: bool) -> int:
    """Go on with a run without a log and print its summary; the exit code.

    Raises InvalidInput for a run that is over or that goes on, and where the processes of the folder run.
    """
    since = time.monotonic()
    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        check_code(history, run_id, data_dir, "resume", trust=trust)
        recorded = recorded_run(history, run_id)
    recorded.last_accepted()  # says why it cannot be
    pid = 0 if recorded.facts[-1].HasField("run_finished") else living_trainer(recorded.facts)
    if pid:
        raise InvalidInput(
            f"run {run_id} goes on: process {pid} trains it now; stop that first, or wait until it is over"
        )
    if not with_my_file:
        tell_changed_files(recorded)
    config, plan = RunConfig.from_json(recorded.root.config_json), plan_of(recorded, with_my_file=with_my_file)
    if not as_json:
        say(f"run {run_id} has no log: it goes on in this process")
    outcome = train_locally(data_dir, "grown", run_id, config, plan)
    if outcome.error or outcome.result is None:
        complain(f"{outcome.error}; what was recorded is kept: `esper events {run_id}`")
        return RUN_FAILED
    if outcome.result["status"] == "interrupted":
        complain(f"run {run_id} ends early: `esper resume {run_id}` goes on from there")
        return INTERRUPTED
    summary = summary_of(data_dir, run_id, Cost.until_now(since, outcome.steps, outcome.torch_import_s))
    say_json(summary.to_json()) if as_json else say(summary.text())
    return 0
