"""`esper learn train`: a policy trained on forks, judged, and what came of it on the log."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from esper.cli import RUN_FAILED
from esper.cli.headroom import FOLDER
from esper.cli.history import check_writable, history_of
from esper.cli.in_process import stopping
from esper.cli.output import BOLD, GREEN, RED, meter, say, say_json, styled, table
from esper.cli.policy_log import publish
from esper.errors import InvalidInput
from esper.leyline import ids
from esper.leyline.objects import ObjectStore
from esper.simic import checkpoint
from esper.simic.forked import forked_states
from esper.simic.headroom import Plan
from esper.simic.learner import Learner, LearnerSettings, Learnt
from esper.simic.ledger import Ledger
from esper.simic.lessons import lessons
from esper.simic.q_ensemble import fit
from esper.simic.replay_buffer import BufferSettings
from esper.simic.trainer import TrainingSettings
from esper.simic.trials import Trials
from esper.simic.versions import Versions, fold
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Clock
from projections.policy_queries import policy_events
from streams.keys import load_key_ring
from streams.objects import object_store
from streams.settings import Settings

CHECKPOINT: Final = Path("learn", "training.safetensors")
TRIAL_SEED: Final = 500
"""Seeds from here on judge; those of forks begin at 1000, and those below are for the evidence."""


def train_command(
    data_dir: Path,
    training: TrainingSettings,
    *,
    rows: Path | None,
    trials: int,
    price: float,
    ensemble: bool,
    goes_on: bool,
    as_json: bool,
) -> int:
    """Train on the rows of a measurement, judge, publish; 1 where the gates rejected it. Raises InvalidInput."""
    settings = Settings.load(data=data_dir)
    check_writable(data_dir)
    ring = load_key_ring(settings)
    folder = data_dir / FOLDER if rows is None else rows
    ledger = Ledger(folder / "rows.jsonl")
    states = forked_states(ledger, ObjectStore(folder / "objects"), price)
    corpus = lessons(states, fit(states) if ensemble else None)
    learner = Learner(
        object_store(settings.data),
        ring,
        LearnerSettings(training=training, buffer=BufferSettings(minimum=1), price=price),
        monotonic=time.monotonic,
        now_ns=time.time_ns,
        memory_bytes=_held,
    )
    versions = _versions(data_dir)
    learner.store(corpus, versions)
    judged_on = [
        replace(config, seed=TRIAL_SEED + number) for number in range(trials) for config in _configs(ledger).values()
    ]
    kept = data_dir / CHECKPOINT
    with stopping() as stop, meter("training", training.total_steps) as tell:
        judge = Trials(
            judged_on,
            Clock(time.monotonic, time.time_ns),
            corpus=corpus[:20],
            observations=[state.observation.SerializeToString(deterministic=True) for state in states[:20]],
            price=price,
            against="heuristic",
            stop=lambda: stop.asked,
        )
        learnt = learner.learn(
            versions,
            judge.evaluate,
            command="esper learn train",
            progress=lambda told: tell(told.step, told.of),
            save=lambda state: checkpoint.save(kept, state),
            resume=checkpoint.load(kept) if goes_on else None,
        )
    publish(data_dir, lambda _versions: learnt.events)
    kept.unlink(missing_ok=True)
    _tell(learnt, len(states), len(judged_on), as_json=as_json)
    return 0 if learnt.verdict.passed else RUN_FAILED


def _held() -> int:
    """The memory that this process has held at most, bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # kibibytes but there


def _configs(ledger: Ledger) -> dict[str, RunConfig]:
    """How the runs of the rows were configured, by task."""
    return {
        row["task"]: RunConfig.from_json(row["config"]) if "config" in row else Plan().config(row["task"], 0)
        for row in ledger.of("run")
    }


def _versions(data_dir: Path) -> Versions:
    try:
        with history_of(data_dir) as history:
            return fold(policy_events(history))
    except InvalidInput:  # there is no archive yet
        return Versions()


def _tell(learnt: Learnt, states: int, runs: int, *, as_json: bool) -> None:
    verdict = learnt.verdict
    if as_json:
        events = {str(event.WhichOneof("body")): ids.text(event.event_id) for event in learnt.events}
        gates = {gate.name: {"passed": gate.passed, "detail": gate.detail} for gate in verdict.gates}
        say_json(
            {"policy_version": learnt.version, "passed": verdict.passed, "gates": gates, "events": events}
            | {"figures": dict(learnt.trained.figures), "states": states, "runs": runs}
        )
        return
    say(f"policy {learnt.version} learnt from {states} forked states and was judged by {runs} pairs of whole runs")
    told = [
        (gate.name, styled("passed", GREEN) if gate.passed else styled("failed", RED), gate.detail)
        for gate in verdict.gates
    ]
    say(table(("gate", "", "what it found"), told))
    for event in learnt.events:
        say(f"  {event.WhichOneof('body')} {ids.text(event.event_id)}")
    if verdict.passed:
        say(styled(f"let it decide: esper policy promote {learnt.version} --by YOU --why WHY", BOLD))
