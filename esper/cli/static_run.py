"""`esper static`: the fair comparison of a run that is over, a net that has what grew from its first step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from esper.cli import RUN_FAILED
from esper.cli.history import control_of, find_run, history_of, static_of
from esper.cli.output import complain, say, say_json
from esper.cli.resume import joined, may_run, request_of
from esper.cli.run_view import RunView
from esper.cli.static import StaticArm
from esper.cli.summary import Cost, Summary
from esper.cli.trainers import Trainers
from esper.cli.training import RunCommand
from esper.cli.trust import check_code
from esper.errors import InvalidInput
from esper.leyline.envelope import Event
from esper.tolaria.config import RunConfig
from esper.tolaria.script import SOURCE
from esper.weatherlight.beginning import Plan
from projections.run_queries import EventReader, run_ids
from streams.keys import load_key_ring
from streams.settings import Settings


def static_command(data_dir: Path, word: str, *, trust: bool, as_json: bool) -> int:
    """Train the static net of a run, where that has none yet, and print both beside each other; the exit code.

    Raises InvalidInput for a run in which nothing grew or that did not complete, and LogUnavailable.
    """
    since = time.monotonic()
    settings = Settings.load(data=data_dir)
    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        known = run_ids(history)
    if static_of(run_id) in known:
        return _tell(data_dir, run_id, Cost.until_now(since, None, 0.0), as_json=as_json)
    trust = may_run(data_dir, word, "train the static net of", trust=trust)
    ring = load_key_ring(settings)
    with joined(data_dir, settings, f"esper static {run_id}") as lease:
        with history_of(data_dir) as history:
            check_code(history, run_id, data_dir, "train the static net of", trust=trust)
            grown = RunView.of(run_id, EventReader(history, run_id).new())
        config = config_of(data_dir, grown)
        source = grown.started.task_source
        plan = Plan("static" if source == SOURCE else "start", source, run_id, fresh=True)
        request = request_of(data_dir, config, "static", as_json=as_json)
        with Trainers(data_dir) as trainers:
            trainers.start({static_of(run_id): "static"}, {static_of(run_id): config}, {static_of(run_id): plan})
            command = RunCommand(request, ring, lease, trainers)
            failure = command.train()
            if failure:
                complain(failure + command.kept)
                return RUN_FAILED
    return _tell(data_dir, run_id, command.cost(since), as_json=as_json)


def config_of(data_dir: Path, grown: RunView) -> RunConfig:
    """The configuration of the static run of a run that is over; raises InvalidInput where there is nothing to show."""
    run_id, started, end = grown.run_id, grown.started, grown.finished
    asked = RunConfig.from_json(started.config_json)
    if asked.static_of or asked.control_of:
        raise InvalidInput(
            f"run {run_id} is a {'static' if asked.static_of else 'control'} run itself; name the grown one"
        )
    if end is None or end.status != "completed":
        how = "is not over" if end is None else f"ended {end.status}"
        raise InvalidInput(f"run {run_id} {how}: only a run that completed has an end to compare with")
    config = StaticArm(run_id, asked, data_dir).config_beside(grown)
    if config is None:
        raise InvalidInput(
            f"run {run_id} ended as the network that it began as: nothing grew in it, so it is its own static net"
        )
    if started.task_source != SOURCE:
        return config
    # A script's network has the structure by seeds, which are inserted at once and learn at the rate of their host.
    seeds = replace(config.seeds, lifecycle="direct")
    return replace(config, seeds=seeds, new_parameter_rate=1.0, new_parameter_warmup_epochs=0.0)


def _tell(data_dir: Path, run_id: str, cost: Cost, *, as_json: bool) -> int:
    with history_of(data_dir) as history:
        known = run_ids(history)
        views = {
            each: RunView.of(each, EventReader(history, each).new())
            for each in (run_id, control_of(run_id), static_of(run_id))
            if each in known
        }
        hooks = _hook_ms(list(EventReader(history, run_id).new()))
    grown = views[run_id]
    if grown.finished is None:
        raise InvalidInput(f"run {run_id} is not over: `esper resume {run_id}` goes on with it")
    summary = Summary(
        grown=grown,
        control=views.get(control_of(run_id)),
        static=views.get(static_of(run_id)),
        seed=RunConfig.from_json(grown.started.config_json).seed,
        hook_ms=hooks,
        cost=cost,
        data_dir=str(data_dir),
    )
    say_json(summary.to_json()) if as_json else say(summary.text())
    return 0


def _hook_ms(events: Sequence[Event]) -> dict[str, float]:
    """How long the ends of the grown run's epochs took, in ms, as its packets say it."""
    found = [each.epoch_completed.hook_ms_before for each in events if each.HasField("epoch_completed")][1:]
    return {f"p{q}": float(np.percentile(found, q)) if found else 0.0 for q in (50, 99)}
