"""`esper learn demo`: the whole loop once, on a log of its own folder, each step with the ids of its events.

Nothing is preset. The initial policy is a fresh network, which never acts; a person lets it decide, as nothing decides
before it. One candidate imitates what its runs did, which is nothing better, and the gates say so. The other one learns
from forks: what every tried action in states of such runs came to. Both are judged by whole runs on seeds that neither
has seen. The one that passes is promoted while a run trains, which the new version decides from then on.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from contracts.leyline.v1.event_pb2 import PolicyPromoted
from contracts.topics import COMMANDS, POLICIES, REPORTS, RUNS, Topic
from esper.cli import RUN_FAILED
from esper.cli.history import check_writable, control_of, history_of, new_run_id, wait_for_archive
from esper.cli.in_process import stopping
from esper.cli.output import BOLD, DIM, GREEN, complain, say, say_json, styled
from esper.cli.policy_log import publish
from esper.cli.replay import recorded_run
from esper.cli.trainers import outcome_of
from esper.errors import EsperError, Interrupted, InvalidInput, LogUnavailable
from esper.kasmina.settings import SeedSettings
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing
from esper.simic import publication
from esper.simic.changes import compare
from esper.simic.forked import forked_states
from esper.simic.headroom import Headroom, Plan
from esper.simic.learner import Learner, LearnerSettings, Learnt
from esper.simic.lessons import lessons
from esper.simic.replay_buffer import BufferSettings
from esper.simic.trainer import TrainingSettings
from esper.simic.trials import Trials, serving_of
from esper.simic.versions import POLICY, Versions, fold
from esper.tamiyo import weights
from esper.tamiyo.network import make
from esper.tamiyo.policies import learned
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Clock
from esper.tolaria.replay import replay_run
from esper.tolaria.tasks import load_task
from esper.weatherlight import client
from esper.weatherlight.trainer import StopFlag, train_here
from projections.policy_queries import experience_rows, observations
from projections.run_queries import EventReader
from streams.consumer import ends_of
from streams.keys import load_key_ring
from streams.objects import object_store
from streams.reader import past
from streams.settings import Settings

TASK: Final = "tab"
EPOCHS: Final = 20
BY: Final = "esper learn demo"
INITIAL: Final = "0.0.1"
RUN_SEEDS: Final = (0, 1, 2)
TRIAL_SEEDS: Final = tuple(range(100, 108))
FORKS: Final = Plan(
    tasks=(TASK,), states=6, actions=7, orders=2, states_a_run=2, lifecycle="swift", policy="learned", epochs=EPOCHS
)
TRAINING: Final = TrainingSettings(epochs=15, steps_per_epoch=10, batch=16, rate=1e-3, curriculum=False)
SWAP_S: Final = 12.0
"""So long the last run trains, about: a promotion is in force two seconds after it."""
SEEN_FIRST: Final = 3
"""Decisions of the last run before the new version is promoted."""
ARCHIVE_S: Final = 60.0
LOADED_S: Final = 60.0
POLL_S: Final = 0.2
_CLOCK: Final = Clock(time.monotonic, time.time_ns)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the demonstration: what came of it, and the ids of the events that say so, by their names."""

    name: str
    said: str
    events: dict[str, list[str]]
    took_s: float


def demo_command(data_dir: Path, *, as_json: bool) -> int:
    """Do it; 1 where a step did not come out as it should, which is said. Raises InvalidInput and LogUnavailable."""
    settings = Settings.load(data=data_dir)
    check_writable(data_dir)
    ring = load_key_ring(settings)
    with client.join(data_dir, client="esper learn demo", brokers=settings.brokers) as lease, stopping() as stop:
        lease.wait_ready()
        demo = Demo(data_dir, lease.brokers, ring, object_store(settings.data), stop, quiet=as_json)
        try:
            demo.play()
        except Unexpected as error:
            complain(str(error))
    if as_json:
        steps = [{"step": each.name, "said": each.said, "events": each.events} for each in demo.steps]
        say_json({"complete": demo.complete, "steps": steps})
    return 0 if demo.complete else RUN_FAILED


class Unexpected(EsperError):
    """A step did not come out as the demonstration needs it; the message says which and what it was."""


@dataclass(slots=True)
class Demo:
    """The demonstration on a log: `steps` are those that are done, `complete` once all are."""

    data_dir: Path
    brokers: str
    ring: KeyRing
    objects: ObjectStore
    stop: StopFlag
    quiet: bool = False
    steps: list[Step] = field(default_factory=list)
    complete: bool = False
    where: str = ""
    _began: float = field(default_factory=time.monotonic)

    def play(self) -> None:
        """All steps in their order; raises Unexpected at the first that does not come out as it should."""
        initial = self.begin()
        self.run_initial()
        trials = self.trials()
        self.reject(trials)
        states = self.fork(initial)
        candidate = self.pass_gates(trials, states)
        run_id = self.swap(candidate)
        self.replay(run_id)
        self.compare(initial, candidate.weights)
        self.complete = True

    # ------------------------------------------------------------------------------------------------------- the steps

    def begin(self) -> bytes:
        """A fresh network decides from now on; returns its weights."""
        versions = self._versions()
        if versions.live:
            raise InvalidInput(
                f"{self.data_dir} has a live policy {versions.live}; the demonstration begins with none: give it a "
                "folder of its own, such as --data-dir demo"
            )
        content = weights.save(make("small", seed=0), INITIAL, {"command": BY, "what": "fresh, never trained"})
        now_ns = time.time_ns()
        trained = publication.trained(
            content,
            INITIAL,
            self.objects,
            experiences=0,
            metrics={},
            provenance={"command": BY},
            now_ns=now_ns,
        )
        body = PolicyPromoted(
            policy_id=POLICY,
            policy_version=INITIAL,
            by=BY,
            weights_ref=trained.policy_trained.weights_ref,
            architecture=str(weights.metadata(content)["architecture"]),
            issued_at_ns=now_ns,
            reason="the first policy: a fresh network, and nothing is live that it could be worse than",
        )
        promoted = _follows(trained, body, now_ns)
        self._publish(trained, promoted)
        loaded = self._loaded(promoted)
        self._tell("initial policy", f"{INITIAL}, a fresh network, decides", [trained, promoted, loaded])
        return content

    def run_initial(self) -> None:
        """Runs on the log that the initial policy decides, each with its control."""
        events: list[Event] = []
        counts = Counter[str]()
        for seed in RUN_SEEDS:
            run_id = new_run_id()
            self._train(run_id, _config(seed))
            control = replace(_config(seed), policy="none", control_of=run_id)
            self._train(control_of(run_id), control)
            found = self._events(run_id, RUNS, COMMANDS, REPORTS)
            counts.update(event.WhichOneof("body") for event in found)
            kinds = ("run_started", "decision_made", "field_report", "run_finished")
            events += [each for kind in kinds for each in _first(found, kind)]
        said = f"{len(RUN_SEEDS)} runs: {counts['decision_made']} decisions, {counts['field_report']} field reports"
        self._tell("runs", said, events)

    def trials(self) -> Trials:
        """The runs on unseen seeds that candidates are judged by; the corpus is what was decided on the log."""
        learner = self._learner()
        learner.take(self._experience(), self._versions())
        with history_of(self.data_dir) as history:
            seen = list(observations(history, self.objects, 20))
        return Trials(
            [_config(seed) for seed in TRIAL_SEEDS],
            _CLOCK,
            corpus=list(learner.buffer)[:20],
            observations=seen,
            tell=self._going("trial"),
        )

    def reject(self, trials: Trials) -> None:
        """A candidate that imitates what the runs did."""
        learner = self._learner()
        taken = learner.take(self._experience(), self._versions())
        if not taken.experiences:
            raise Unexpected(f"no experience was taken from the runs: {dict(taken.refused)}")
        learnt = self._learn(learner, trials)
        if learnt.verdict.passed:
            raise Unexpected(f"policy {learnt.version}, which imitates the runs, passed all gates: it should not")
        said = f"{learnt.version} learnt from {len(taken.experiences)} decisions of runs; {learnt.verdict.reason}"
        self._tell("rejected", said, learnt.events)

    def fork(self, initial: bytes) -> Headroom:
        """Leave decisions of runs of the initial policy by several actions."""
        folder = self.data_dir / "learn" / "demo"
        work = Headroom(
            FORKS,
            folder,
            _CLOCK,
            serving=partial(serving_of, initial),
            stop=lambda: self.stop.asked,
            tell=lambda progress: self._going("fork")(progress.where),
        )
        if not work.work():
            raise Interrupted("the demonstration was interrupted; the same command begins it anew")
        states = len(list(work.ledger.of("state")))
        self._tell("forks", f"{states} states, {work.progress.done} rollouts, in {work.ledger.path}", [])
        return work

    def pass_gates(self, trials: Trials, work: Headroom) -> Learnt:
        """A candidate that learns from the forks; it has to pass."""
        learner = self._learner()
        learner.store(lessons(forked_states(work.ledger, work.objects)), self._versions())
        learnt = self._learn(learner, trials)
        if not learnt.verdict.passed:
            raise Unexpected(f"policy {learnt.version}, which learnt from forks, was rejected: {learnt.verdict.reason}")
        gain = learnt.verdict.gates[0].detail
        self._tell("passed", f"{learnt.version} learnt from {len(learner.buffer)} forked states; {gain}", learnt.events)
        return learnt

    def swap(self, candidate: Learnt) -> str:
        """Promote it while a run trains that the initial policy decides; returns that run's id."""
        run_id, epochs = new_run_id(), self._epochs_of(SWAP_S)
        promoted: list[Event] = []

        def promote() -> None:
            while not over.is_set() and self._decisions_on_log(run_id) < SEEN_FIRST:
                over.wait(POLL_S)
            if not over.is_set():
                promoted.extend(publish(self.data_dir, lambda versions: [_promotion(versions, candidate)]))

        over, thread = threading.Event(), threading.Thread(target=promote, name="promote")
        thread.start()
        try:
            self._train(run_id, replace(_config(50), epochs=epochs))
        finally:
            over.set()
            thread.join(LOADED_S)
        if not promoted:
            raise Unexpected(f"run {run_id} was over before it had {SEEN_FIRST} decisions")
        loaded = self._loaded(promoted[0])
        made = [each for each in self._events(run_id, COMMANDS) if each.HasField("decision_made")]
        by_version = {
            version: [each for each in made if each.decision_made.policy_version == version]
            for version in (INITIAL, candidate.version)
        }
        if not all(by_version.values()):
            counts = {version: len(found) for version, found in by_version.items()}
            raise Unexpected(f"run {run_id} of {epochs} epochs was not decided by both versions: {counts}")
        said = ", ".join(f"{len(found)} decisions by {version}" for version, found in by_version.items())
        events = [promoted[0], loaded, by_version[INITIAL][-1], by_version[candidate.version][0]]
        self._tell("hot reload", f"run {run_id}: {said}", events)
        return run_id

    def replay(self, run_id: str) -> None:
        """Train that run again from its record; it has to come to the same bits, across the swap."""
        with history_of(self.data_dir) as history:
            recorded = recorded_run(history, run_id)
        found = replay_run(recorded, load_task(TASK), objects=self.objects, clock=_CLOCK)
        if found.diverged is not None:
            raise Unexpected(f"run {run_id} does not replay: {found.diverged}")
        if found.decisions_checked != len(recorded.decisions):
            raise Unexpected(
                f"{found.decisions_checked} of {len(recorded.decisions)} decisions of run {run_id} were derived again"
            )
        said = (
            f"run {run_id} bit for bit: {found.digests_checked} digests, {found.decisions_checked} decisions, "
            f"{found.facts} facts agree; `esper replay {run_id}` does it again"
        )
        self._tell("replay", said, [])

    def compare(self, before: bytes, after: bytes) -> None:
        """In which share of all stored observations the new version decides otherwise."""
        with history_of(self.data_dir) as history:
            seen = list(observations(history, self.objects, 10_000))
        changes = compare(learned.policy(before), learned.policy(after), seen)
        if not changes.changed:
            raise Unexpected(f"the new version decides as the initial one in all {changes.states} stored observations")
        such = ", ".join(f"{kind} {count}" for kind, count in changes.kinds.most_common(3))
        said = f"other actions in {changes.share:.1%} of {changes.states} stored observations ({such})"
        self._tell("other decisions", said, [])

    # -------------------------------------------------------------------------------------------------- learning, runs

    def _learner(self) -> Learner:
        settings = LearnerSettings(training=TRAINING, buffer=BufferSettings(minimum=1))
        return Learner(self.objects, self.ring, settings, monotonic=time.monotonic, now_ns=time.time_ns)

    def _learn(self, learner: Learner, trials: Trials) -> Learnt:
        learnt = learner.learn(self._versions(), trials.evaluate, command=BY)
        self._publish(*learnt.events)
        return learnt

    def _experience(self) -> list[dict[str, Any]]:
        with history_of(self.data_dir) as history:
            return experience_rows(history)

    def _train(self, run_id: str, config: RunConfig) -> None:
        self._going("run")(f"{config.task} seed {config.seed}, policy {config.policy}")
        outcome = outcome_of("demo", train_here(self.data_dir, run_id, config, lambda: self.brokers, self.stop))
        if outcome.error or not outcome.result:
            raise Unexpected(outcome.error)
        if self.stop.asked:
            raise Interrupted(f"the demonstration was interrupted in run {run_id}; begin it in another folder")
        self._settle()

    def _epochs_of(self, seconds: float) -> int:
        """So many epochs take about that long, by the runs that there were."""
        packets = [each for each in self._events("", RUNS, all_runs=True) if each.HasField("epoch_completed")]
        spent = sorted(each.epoch_completed.duration_s for each in packets)
        median = spent[len(spent) // 2] + 0.02 if spent else 0.05
        return max(60, min(600, round(seconds / median)))

    # ------------------------------------------------------------------------------------------------ log and archive

    def _publish(self, *events: Event) -> None:
        publish(self.data_dir, lambda _versions: events)

    def _settle(self) -> None:
        ends = ends_of(self.brokers, (RUNS, COMMANDS, REPORTS, POLICIES))
        wait_for_archive(self.data_dir, ends, ARCHIVE_S, lambda _to_go: None)

    def _versions(self) -> Versions:
        return fold(asyncio.run(_past(self.brokers, self.ring, POLICIES)))

    def _loaded(self, promoted: Event) -> Event:
        """The decider's answer to a promotion; raises Unexpected where it refuses, LogUnavailable where none comes."""
        deadline = time.monotonic() + LOADED_S
        while time.monotonic() < deadline:
            for event in asyncio.run(_past(self.brokers, self.ring, POLICIES)):
                if event.causation_id == promoted.event_id and event.HasField("policy_loaded"):
                    self._settle()
                    return event
                if event.causation_id == promoted.event_id and event.HasField("policy_rejected"):
                    raise Unexpected(f"the decider refused the policy: {event.policy_rejected.reason}")
            time.sleep(POLL_S)
        raise LogUnavailable(f"no decider loaded the promoted policy within {LOADED_S:.0f} s")

    def _decisions_on_log(self, run_id: str) -> int:
        found = asyncio.run(_past(self.brokers, self.ring, COMMANDS))
        return sum(event.run_id == run_id and event.HasField("decision_made") for event in found)

    def _events(self, run_id: str, *topics: Topic, all_runs: bool = False) -> list[Event]:
        if all_runs:
            return [each for topic in topics for each in asyncio.run(_past(self.brokers, self.ring, topic))]
        with history_of(self.data_dir) as history:
            bodies = [name for topic in topics for name in topic.bodies]
            return list(EventReader(history, run_id, bodies).new())

    # ----------------------------------------------------------------------------------------------------- what is said

    def _tell(self, name: str, said: str, events: Sequence[Event]) -> None:
        told: dict[str, list[str]] = {}
        for event in events:
            told.setdefault(str(event.WhichOneof("body")), []).append(ids.text(event.event_id))
        now = time.monotonic()
        self.steps.append(Step(name, said, told, now - self._began))
        if not self.quiet:
            say(f"{styled(f'{now - self._began:5.0f} s', DIM)}  {styled(name, BOLD, GREEN)}: {said}")
            for body, found in told.items():
                for each in found:
                    say(f"         {body} {styled(each, DIM)}")

    def _going(self, what: str) -> Callable[[str], None]:
        def tell(where: str) -> None:
            if self.stop.asked:
                raise Interrupted("the demonstration was interrupted; begin it in another folder")
            self.where = f"{what} {where}"

        return tell


def _config(seed: int) -> RunConfig:
    return RunConfig(
        task=TASK,
        seed=seed,
        policy="learned",
        epochs=EPOCHS,
        decision_timeout_s=None,
        seeds=SeedSettings(lifecycle="swift"),
    )


def _promotion(versions: Versions, learnt: Learnt) -> Event:
    return publication.promotion(
        versions,
        versions.find(learnt.version),
        by=BY,
        reason="all gates passed",
        architecture=str(weights.metadata(learnt.weights)["architecture"]),
        now_ns=time.time_ns(),
    )


def _first(events: Sequence[Event], kind: str) -> list[Event]:
    return [event for event in events if event.WhichOneof("body") == kind][:1]


def _follows(cause: Event, body: PolicyPromoted, now_ns: int) -> Event:
    return new_event(
        body,
        event_id=ids.derived_id(cause.event_id, "learn.demo"),
        run_id="",
        producer=publication.PRODUCER,
        recorded_at_ns=now_ns,
        causation_id=cause.event_id,
        correlation_id=cause.event_id,
    )


async def _past(brokers: str, ring: KeyRing, topic: Topic) -> list[Event]:
    return [event async for event in past(brokers, ring, topic)]
