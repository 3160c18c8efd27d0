"""`esper resume` and `esper fork`: a run that is on the log already goes on, as itself or as another."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from esper.cli import RUN_FAILED
from esper.cli.history import (
    Waiting,
    control_of,
    find_run,
    grown_run,
    history_of,
    new_run_id,
    resolve,
    static_of,
    wait_for_archive,
)
from esper.cli.output import BOLD, DIM, complain, one_line, say, say_json, styled, table
from esper.cli.replay import recorded_run
from esper.cli.run import RunRequest
from esper.cli.run_view import RunView
from esper.cli.runs import told_of
from esper.cli.trainers import Trainers
from esper.cli.training import RunCommand
from esper.cli.trust import check_code
from esper.errors import InvalidInput
from esper.leyline.envelope import Event, body_name, body_of
from esper.metric import figures_of_test
from esper.record import Recorded
from esper.record.accept import CLAIMS
from esper.record.recorded import FILE
from esper.tolaria.config import RunConfig
from esper.tolaria.fork_change import place_of, read_change
from esper.tolaria.script import changed
from esper.weatherlight import client
from esper.weatherlight.alive import lives
from esper.weatherlight.beginning import Plan
from projections.history import History
from projections.run_list import all_work
from projections.run_queries import EventReader, partition_of_run, run_ids
from streams.consumer import ends_of
from streams.keys import load_key_ring
from streams.settings import Settings

ARCHIVE_S: Final = 30.0
MOVING_S: Final = 600.0
"""How long a new data folder may take in what all others wrote: the run that is gone on with may be anywhere in it."""


def resume_command(data_dir: Path, word: str, *, trust: bool, with_my_file: bool = False, as_json: bool) -> int:
    """Resume a run, and its control and static runs where those were not over either; the exit code.

    What was recorded is run, or the person's files as they are now. Raises InvalidInput for a run that is over or that
    goes on, and LogUnavailable.
    """
    since = time.monotonic()
    settings = Settings.load(data=data_dir)
    trust = may_run(data_dir, word, "resume", trust=trust)
    ring = load_key_ring(settings)
    with joined(data_dir, settings, f"esper resume {word}") as lease:
        with history_of(data_dir) as history:
            known = run_ids(history)
            run_id = resolve(word, known)
            _check_alone(lease, run_id)
            _check_not_of_the_fleet(history, run_id)
            family = [each for each in (run_id, control_of(run_id), static_of(run_id)) if each in known]
            for each in family:
                check_code(history, each, data_dir, "resume", trust=trust)
            recorded = {each: recorded_run(history, each) for each in family}
            before = {each: list(EventReader(history, each).new()) for each in family}
            partitions = {each: partition_of_run(history, each) for each in family}
        going = [each for each in family if _goes_on(recorded[each])]
        if not going:
            recorded[run_id].last_accepted()  # says why
        for each in going:
            if pid := living_trainer(recorded[each].facts):
                complain(
                    f"the trainer of run {each} still lives as process {pid}: this takes the run over, and what that "
                    "one writes from now on does not count"
                )
        configs = {each: RunConfig.from_json(recorded[each].root.config_json) for each in going}
        if not with_my_file:
            tell_changed_files(recorded[going[0]])
        plans = {each: plan_of(recorded[each], with_my_file=with_my_file) for each in going}
        names = {run_id: "grown", control_of(run_id): "control", static_of(run_id): "static"}
        request = request_of(data_dir, configs[going[0]], "resume", as_json=as_json)
        with Trainers(data_dir) as trainers:
            trainers.start(names, configs, plans)
            command = RunCommand(request, ring, lease, trainers, before=before, told=family, partitions=partitions)
            failure = command.train()
            if failure:
                complain(failure + command.kept)
                return RUN_FAILED
    summary = command.summary(since)
    say_json(summary.to_json()) if as_json else say(summary.text())
    return 0


def plan_of(recorded: Recorded, *, with_my_file: bool) -> Plan:
    """How a trainer goes on with a run."""
    return Plan("resume", source=recorded.task_source, with_my_file=with_my_file)


def changed_files(recorded: Recorded) -> list[str]:
    """The files of a person's own that a run was trained with and that are not what they were, by their names."""
    if recorded.root.HasField("script"):
        script = recorded.script
        return changed(script) if Path(script.folder, script.path).is_file() else []
    if not recorded.task_source.startswith(FILE):
        return []
    file = Path(RunConfig.from_json(recorded.root.config_json).task.rpartition(":")[0])
    same = file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == recorded.task_source.removeprefix(FILE)
    return [] if same or not file.is_file() else [file.name]


def tell_changed_files(recorded: Recorded) -> None:
    """Say which files of a person's own changed, and that what was recorded is run all the same."""
    if files := changed_files(recorded):
        complain(
            f"{one_line(' and '.join(files))} changed since run {recorded.run_id} was trained; it goes on with what "
            "was recorded, and --with-my-file goes on with the files as they are now"
        )


def may_run(data_dir: Path, word: str, verb: str, *, trust: bool) -> bool:
    """Ask for a stranger's code before anything is started; whether it was trusted.

    A folder without a history is said to be one here. A run that is not archived yet is asked about later.
    """
    with history_of(data_dir) as history:
        try:
            run_id = find_run(history, word)
        except InvalidInput:
            return trust
        return check_code(history, run_id, data_dir, verb, trust=trust)


@contextmanager
def joined(data_dir: Path, settings: Settings, name: str) -> Iterator[client.Lease]:
    """A lease on the folder's processes, once they are ready and the archive has all that lies on the log by then."""
    with client.join(data_dir, client=name, brokers=settings.brokers) as lease:
        lease.wait_ready()
        tell, ends = Waiting(complain).tell, ends_of(lease.brokers)
        wait_for_archive(data_dir, ends, ARCHIVE_S, tell, lease.unwritable, moving_s=MOVING_S)
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
        rate_policy=config.rate_policy,
        device=config.device,
        pool=config.pool,
        compiled_kernels=config.compiled_kernels,
        drill=(),
        ignore_history=True,
        control=False,
        static=False,
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


def _check_not_of_the_fleet(history: History, run_id: str) -> None:
    """Raise InvalidInput where workers have this run: whoever is fenced would take it back from the other for ever."""
    run = next(iter(all_work(history, [run_id])), None)
    if run is not None and not run.over:
        raise InvalidInput(
            f"run {run_id} was submitted and is {told_of(run)}: `esper work` goes on with it; to do so here, have it "
            f"left alone first: `esper withdraw {run_id}`"
        )


def living_trainer(facts: Iterable[Event]) -> int:
    """The process id of the trainer that claimed a run last, where it lives on this machine; else 0."""
    claims = [fact for fact in facts if body_name(fact) in CLAIMS]
    if not claims:
        return 0
    process = body_of(claims[-1]).machine.process
    return int(process.pid) if lives(process) else 0


def trained_by(run_id: str, clients: Collection[str]) -> str:
    """Which command of those that hold a lease began this run and trains it, or the run that it belongs to."""
    name = grown_run(run_id)
    return next((verb for verb in ("esper run", "esper fork") if f"{verb} {name}" in clients), "")


def fork_command(data_dir: Path, word: str, step: int, words: str, *, trust: bool, as_json: bool) -> int:
    """Fork a run and train the fork to its end; the exit code. Raises InvalidInput for what cannot be done there."""
    since = time.monotonic()
    change = read_change(words)
    settings = Settings.load(data=data_dir)
    trust = may_run(data_dir, word, "fork", trust=trust)
    ring = load_key_ring(settings)
    child = new_run_id()
    with joined(data_dir, settings, f"esper fork {child}") as lease:
        with history_of(data_dir) as history:
            parent_id = find_run(history, word)
            check_code(history, parent_id, data_dir, "fork", trust=trust)
            parent = recorded_run(history, parent_id)
        place_of(parent, step, change)
        config = RunConfig.from_json(parent.begun(len(parent.facts)).run_started.config_json)
        config = replace(config, policy=change.policy or config.policy, control_of="")
        plan = Plan("fork", parent.task_source, parent_id, step, change.text, fresh=True)
        request = request_of(data_dir, config, "fork", as_json=as_json)
        with Trainers(data_dir) as trainers:
            trainers.start({child: "fork"}, {child: config}, {child: plan})
            command = RunCommand(request, ring, lease, trainers)
            failure = command.train()
            if failure:
                complain(failure + command.kept)
                return RUN_FAILED
    with history_of(data_dir) as history:
        before, after = (RunView.of(each, EventReader(history, each).new()) for each in (parent_id, child))
        outcome = Outcome(before, after, parent, recorded_run(history, child), step, time.monotonic() - since)
    say_json(outcome.to_json()) if as_json else say("\n".join(outcome.lines()))
    return 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A fork beside the run that it left."""

    parent_view: RunView
    child_view: RunView
    parent: Recorded
    child: Recorded
    step: int
    wall_s: float

    @property
    def parts_at(self) -> int | None:
        """The step of the first digest that the parent does not have; None where there is none: they are the same."""
        shared = {(fact.global_step, fact.state_digested.root) for fact in self.parent.facts}
        own = self.child.facts[self._started.parent_sequence :]
        steps = (fact.global_step for fact in own if fact.HasField("state_digested") and not _in(fact, shared))
        return next(steps, None)

    @property
    def _started(self) -> Any:
        return self.child.begun(len(self.child.facts)).run_started

    def to_json(self) -> dict[str, Any]:
        """The one object of `esper fork --json`; the parent's figures are null where it is not over."""
        before, after = (view.finished for view in (self.parent_view, self.child_view))
        return {
            "run_id": self.child.run_id,
            "parent_run_id": self._started.parent_run_id,
            "parent_sequence": self._started.parent_sequence,
            "at_step": self.step,
            "change": self._started.fork_change,
            "parts_at_step": self.parts_at,
            "same_as_parent": self.parts_at is None,
            "metric": figures_of_test(after)[0].metric_dict(),
            "test_metric": figures_of_test(after)[0].value,
            "parent_test_metric": figures_of_test(before)[0].value if before else None,
            "val_accuracy": after.test_accuracy,
            "parent_val_accuracy": before.test_accuracy if before else None,
            "params_final": after.params_final,
            "parent_params_final": before.params_final if before else None,
            "seeds": _seeds(after),
            "parent_seeds": _seeds(before) if before else None,
            "wall_s": round(self.wall_s, 3),
        }

    def lines(self) -> Iterator[str]:
        """The same for a person."""
        started, before, after = self._started, self.parent_view.finished, self.child_view.finished
        yield ""
        yield styled(
            f"run {self.child.run_id}: {started.parent_run_id} with {started.fork_change!r} at step {self.step}", BOLD
        )
        same = self.parts_at is None
        yield "ends bit for bit as its parent" if same else f"differs from its parent from step {self.parts_at} on"
        yield ""
        ends, main = [end for end in (before, after) if end is not None], figures_of_test(after)[0]
        headers = ("", *(("parent",) if before else ()), "fork")
        rows = [
            (f"test {one_line(main.label)}", *(figures_of_test(end)[0].bare for end in ends)),
            ("test loss", *(f"{end.test_loss:.4f}" for end in ends)),
            ("parameters", *(f"{end.params_final:,}" for end in ends)),
            ("fossilized", *(f"{end.fossilized} of {end.germinated}" for end in ends)),
        ]
        yield table(headers, rows, right=(1, 2))
        yield ""
        yield styled("try next", DIM)
        yield f"  esper diff {started.parent_run_id} {self.child.run_id}"
        yield f"  esper replay {self.child.run_id}"


def _in(fact: Any, shared: set[tuple[int, bytes]]) -> bool:
    return (fact.global_step, fact.state_digested.root) in shared


def _seeds(finished: Any) -> dict[str, int]:
    return {name: getattr(finished, name) for name in ("germinated", "fossilized", "culled")}
