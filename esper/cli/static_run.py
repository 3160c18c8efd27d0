"""`esper static`: the fair comparison of a run that is over, a net that has what grew from its first step.

With `--seeds` the run's script is run anew for each random seed, each beside a static net of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from contracts.topics import LOCAL
from esper.cli import RUN_FAILED
from esper.cli.history import control_of, find_run, history_of, new_run_id, static_of
from esper.cli.output import BOLD, complain, one_line, say, say_json, styled
from esper.cli.resume import joined, may_run, request_of
from esper.cli.run_view import RunView
from esper.cli.seeds import Seeds
from esper.cli.static import StaticArm
from esper.cli.summary import Cost, Summary
from esper.cli.trainers import Trainers
from esper.cli.training import RunCommand
from esper.cli.trust import check_code
from esper.errors import InvalidInput
from esper.leyline.envelope import Event
from esper.leyline.signing import KeyRing
from esper.tolaria.config import RunConfig
from esper.tolaria.script import SEED, SOURCE, seed_of, with_seed
from esper.weatherlight import client
from esper.weatherlight.beginning import Plan
from projections.run_queries import EventReader, partition_of_run, run_ids
from streams.keys import load_key_ring
from streams.settings import Settings


def static_command(data_dir: Path, word: str, *, seeds: Sequence[int] = (), trust: bool, as_json: bool) -> int:
    """Train the static net of a run, where that has none yet, and print both beside each other; the exit code.

    With `seeds` the same for a new run of its script with each, and one table of all of them. Raises InvalidInput for a
    run in which nothing grew or that did not complete, and LogUnavailable.
    """
    since = time.monotonic()
    settings = Settings.load(data=data_dir)
    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        known = run_ids(history)
        local = partition_of_run(history, run_id) == LOCAL
    if static_of(run_id) in known and not seeds:
        return _tell(summary_of(data_dir, run_id, Cost.until_now(since, None, 0.0)), as_json=as_json)
    trust = may_run(data_dir, word, "train the static net of", trust=trust)
    ring = load_key_ring(settings)
    joining = nullcontext() if local else joined(data_dir, settings, f"esper static {run_id}")
    with joining as lease:
        with history_of(data_dir) as history:
            check_code(history, run_id, data_dir, "train the static net of", trust=trust)
        arms = _Arms(data_dir, ring, lease, run_id, as_json=as_json)
        if seeds:
            return _tell_seeds(arms, seeds, as_json=as_json)
        if not arms.train_static(run_id, arms.static_config(run_id)):
            return RUN_FAILED
    return _tell(summary_of(data_dir, run_id, arms.cost(since)), as_json=as_json)


class _Arms:
    """The runs that are trained beside a run that is over, one after the other: on the log of one lease, or without."""

    def __init__(
        self, data_dir: Path, ring: KeyRing, lease: client.Lease | None, run_id: str, *, as_json: bool
    ) -> None:
        self._data_dir = data_dir
        self._ring = ring
        self._lease = lease
        self._as_json = as_json
        self.cost: Callable[[float], Cost] = lambda since: Cost.until_now(since, None, 0.0)
        """Of the run that was trained last, by when that began."""
        self.run_id = run_id
        self.parent = self.view(run_id)

    def view(self, run_id: str) -> RunView:
        """A run as the archive has it."""
        with history_of(self._data_dir) as history:
            return RunView.of(run_id, EventReader(history, run_id).new())

    def static_config(self, run_id: str) -> RunConfig:
        """Of the static net of a run; raises InvalidInput where there is nothing to show."""
        return config_of(self._data_dir, self.view(run_id))

    def train_static(self, run_id: str, config: RunConfig) -> bool:
        """Train the static net of a run; whether that came to its end."""
        source = self.parent.started.task_source
        plan = Plan("again" if source == SOURCE else "start", source, run_id, fresh=True)
        return self._train("static", static_of(run_id), config, plan)

    def summary(self, run_id: str, since: float) -> Summary:
        """Of a run of a seed, with its static net; one in which nothing grew has none, which is said."""
        with history_of(self._data_dir) as history:
            known = run_ids(history)
        if static_of(run_id) not in known:
            try:
                config = self.static_config(run_id)
            except InvalidInput as error:
                complain(str(error))
            else:
                self.train_static(run_id, config)
        return summary_of(self._data_dir, run_id, self.cost(since))

    def train_grown(self, seed: int) -> str:
        """Run the script anew with this random seed; the new run's id, empty where it failed."""
        run_id, script = new_run_id(), self.parent.started.script
        config = replace(RunConfig.from_json(self.parent.started.config_json), seed=seed)
        plan = Plan("again", SOURCE, self.run_id, fresh=True, arguments=with_seed(script.arguments, seed))
        return run_id if self._train("grown", run_id, config, plan) else ""

    def _train(self, name: str, run_id: str, config: RunConfig, plan: Plan) -> bool:
        if self._lease is None:
            from esper.cli.local import train_locally  # noqa: PLC0415 - it tells of runs as this does

            outcome = train_locally(self._data_dir, name, run_id, config, plan)
            self.cost = lambda since: Cost.until_now(since, outcome.steps, outcome.torch_import_s)
            completed = outcome.result is not None and outcome.result["status"] == "completed"
            if not completed:
                complain(outcome.error or f"the {name} run {run_id} was interrupted")
            return completed
        request = request_of(self._data_dir, config, "static", as_json=self._as_json)
        with Trainers(self._data_dir) as trainers:
            trainers.start({run_id: name}, {run_id: config}, {run_id: plan})
            command = RunCommand(request, self._ring, self._lease, trainers)
            self.cost, failure = command.cost, command.train()
            if failure:
                complain(failure + command.kept)
            return not failure


def _tell_seeds(arms: _Arms, seeds: Sequence[int], *, as_json: bool) -> int:
    """Train a grown and a static run for each seed, but for those that are there, and print one table of them."""
    run_id, started = arms.run_id, arms.parent.started
    check_grown(arms.parent)
    if started.task_source != SOURCE:
        raise InvalidInput(
            f"run {run_id} trained {started.task}, which is no script: `esper run --task {started.task} --seeds 0..4 "
            "--static` trains it for several seeds"
        )
    if started.script.before:
        raise InvalidInput(
            f"the script of run {run_id} grew another network before this one, which other seeds would change too: "
            "--seeds takes the run that a script grew first"
        )
    summaries: list[Summary] = []
    weights: dict[bytes, int] = {}
    for seed in seeds:
        since = time.monotonic()
        if not as_json:
            say(styled(f"seed {seed}", BOLD))
        grown = run_id if seed == seed_of(started.script.arguments) else arms.train_grown(seed)
        if not grown:
            continue
        other = weights.setdefault(arms.view(grown).started.weights_digest, seed)
        if other != seed:
            raise InvalidInput(
                f"{one_line(started.script.path)} begins with the same weights for {SEED} {other} and {SEED} {seed}: "
                f"have it take an argument {SEED} and give that to torch.manual_seed before it makes its model"
            )
        summaries.append(replace(arms.summary(grown, since), seed=seed))
    told = Seeds(summaries, seeds)
    say_json(told.to_json()) if as_json else say(told.text())
    return 0 if len(summaries) == len(seeds) else RUN_FAILED


def check_grown(grown: RunView) -> RunConfig:
    """The configuration of a run; raises InvalidInput for one that is beside another."""
    asked = RunConfig.from_json(grown.started.config_json)
    if asked.static_of or asked.control_of:
        raise InvalidInput(
            f"run {grown.run_id} is a {'static' if asked.static_of else 'control'} run itself; name the grown one"
        )
    return asked


def config_of(data_dir: Path, grown: RunView) -> RunConfig:
    """The configuration of the static run of a run that is over; raises InvalidInput where there is nothing to show."""
    run_id, started, end = grown.run_id, grown.started, grown.finished
    asked = check_grown(grown)
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


def summary_of(data_dir: Path, run_id: str, cost: Cost) -> Summary:
    """Of a run that is over, beside the others of it that there are; raises InvalidInput for one that is not over."""
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
    return Summary(
        grown=grown,
        control=views.get(control_of(run_id)),
        static=views.get(static_of(run_id)),
        seed=RunConfig.from_json(grown.started.config_json).seed,
        hook_ms=hooks,
        cost=cost,
        data_dir=str(data_dir),
    )


def _tell(summary: Summary, *, as_json: bool) -> int:
    say_json(summary.to_json()) if as_json else say(summary.text())
    return 0


def _hook_ms(events: Sequence[Event]) -> dict[str, float]:
    """How long the ends of the grown run's epochs took, in ms, as its packets say it."""
    found = [each.epoch_completed.hook_ms_before for each in events if each.HasField("epoch_completed")][1:]
    return {f"p{q}": float(np.percentile(found, q)) if found else 0.0 for q in (50, 99)}
