"""A training command at work: `esper run`, `resume` and `fork` from their lease to their summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from esper.cli.history import (
    ArchiveBehind,
    Waiting,
    check_room,
    control_of,
    grown_run,
    history_of,
    static_of,
    wait_for_archive,
)
from esper.cli.output import complain
from esper.cli.run import Instructor
from esper.cli.run_view import RunView
from esper.cli.screen import Screen, make_screen
from esper.cli.summary import Cost, Summary
from esper.cli.tail import LogTail
from esper.cli.trainers import PREPARE_S, Trainer, Trainers
from esper.errors import EsperError, InvalidInput, LogUnavailable
from esper.leyline.envelope import Event, body_name
from esper.leyline.signing import KeyRing
from esper.weatherlight import client
from projections.manifest import Gap, Place
from projections.run_queries import EventReader

if TYPE_CHECKING:
    from esper.cli.run import RunRequest
    from esper.cli.static import StaticArm
    from projections.history import History

TICK_S: Final = 0.05
REPORTS_S: Final = 3.0
FULL_S: Final = 5.0
"""How long the disk may be full before a run ends over it: somebody may make room."""
ARCHIVE_S: Final = 30.0
BEGINS_S: Final = 2.0
"""How long a log may take to say where it ends as a run begins; only what it loses of the run is told by that."""
INTERRUPTED_ARCHIVE_S: Final = 0.5


class RunCommand:
    """One `esper run`, `resume` or `fork` between its lease and its summary.

    `before` are the events that the runs begin with, which are on the log already; `told` the runs of the summary;
    `partitions` where on the log those lie that began before.
    """

    def __init__(
        self,
        request: RunRequest,
        ring: KeyRing,
        lease: client.Lease,
        trainers: Trainers,
        *,
        before: Mapping[str, Sequence[Event]] = MappingProxyType({}),
        told: Sequence[str] = (),
        partitions: Mapping[str, int | None] = MappingProxyType({}),
        instructor: Instructor | None = None,
        static: StaticArm | None = None,
    ) -> None:
        self._request = request
        self._ring = ring
        self._lease = lease
        self._trainers = trainers
        self._run_ids = [trainer.run_id for trainer in trainers.trainers]
        self._instructor = instructor
        self._views = [RunView.of(run_id, before.get(run_id, ())) for run_id in self._run_ids]
        for view, trainer in zip(self._views, trainers.trainers, strict=True):
            view.name = trainer.name
        self._static = static
        if static is not None:
            self._run_ids.append(static.run_id)
        self._told = told or self._run_ids
        self._partitions = partitions
        self._hook_ms: Mapping[str, float] = {}
        self._flops: Mapping[str, float] = {}
        self._steps: tuple[float, float] | None = None
        self._torch_import_s = 0.0
        self._room_at: float | None = None
        self._open = contextlib.ExitStack()
        self._history: History | None = None
        self._over: set[str] = set()
        self._to_go = 0
        self._begins: Mapping[Place, int] = {}
        self._static_by: float | None = None

    def train(self) -> str:
        """Train all runs to their end and wait for the archive; why the grown run failed, empty where it did not."""
        title = f"esper {self._request.verb} {self._run_ids[0]} · {self._request.task} · {self._request.policy}"
        with make_screen(title, self._views, quiet=self._request.as_json) as screen:
            tail = self._prepare(screen)
            try:
                self._trainers.begin(self._lease.brokers)
                with contextlib.suppress(LogUnavailable):  # it is waited for afterwards as ever
                    self._begins = tail.ends(BEGINS_S)
                self._follow(tail, screen)
                self._settle(tail, screen)
            except BaseException:
                # The trainers end first and the archive has a moment, so that the history tells of their end.
                self._trainers.stop()
                with contextlib.suppress(LogUnavailable):  # what the archive lacks is on the log for the next archiver
                    self._wait_for_archive(INTERRUPTED_ARCHIVE_S, tail, screen)
                complain(f"run {self._run_ids[0]} ends early{self.kept}")
                raise
            finally:
                tail.close()
        return self._outcome()

    @property
    def kept(self) -> str:
        """Where to read what the grown run wrote; empty where it wrote nothing."""
        run_id = self._run_ids[0]
        if not self._views[0].events:
            return ""
        kept, end = f"; what was recorded is kept: `esper events {run_id}`", self._views[0].finished
        over = end is not None and end.status == "completed"
        if end is not None and end.status == "failed":
            return f"{kept}, and `esper resume {run_id}` goes on from there once that is mended"
        return kept if over else f"{kept}, and `esper resume {run_id}` goes on from there"

    def _prepare(self, screen: Screen) -> LogTail:
        """Until the processes are ready and the trainers have loaded what they need, both at once."""
        deadline = time.monotonic() + PREPARE_S
        screen.note("starting the log and its workers, loading the task")
        tail: LogTail | None = None
        try:
            while not self._trainers.wait_prepared(TICK_S):
                self._take_news(screen)
                screen.refresh()
                if tail is None and self._lease.status.state == "ready":
                    tail = self._tail()
                self._check_in_time(deadline)
            self._lease.wait_ready()
        except BaseException:
            if tail is not None:
                tail.close()
            raise
        log = "embedded broker" if self._lease.status.embedded else "ESPER_BROKERS"
        screen.note(f"data {self._request.data_dir} · log {self._lease.brokers} ({log})")
        return tail or self._tail()

    def _tail(self) -> LogTail:
        return LogTail(self._lease.brokers, self._ring, self._run_ids, self._partitions)

    def _check_in_time(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise InvalidInput(f"task {self._request.task} was not loaded within {PREPARE_S:.0f} s")

    def _follow(self, tail: LogTail, screen: Screen) -> None:
        grown = self._trainers.trainers[0]
        while not self._trainers.done or (self._static is not None and self._static.waiting):
            self._take_event(tail, screen)
            self._take_news(screen)
            self._tend_static(grown, screen)
            screen.refresh()
            self._check_room()
            self._read_ahead()
            if grown.outcome is not None and grown.outcome.error:
                self._trainers.ask_to_stop()

    def _tend_static(self, grown: Trainer, screen: Screen) -> None:
        """Start the static run once the grown one is over and its end is on the log, and begin it once it is ready."""
        static = self._static
        if static is None or not static.waiting:
            if static is not None:
                static.begin(self._lease.brokers)
            return
        if grown.outcome is None:
            return
        self._static_by = self._static_by or time.monotonic() + REPORTS_S
        if self._views[0].finished is None and not grown.outcome.error and time.monotonic() < self._static_by:
            return
        if static.start(self._views[0], self._trainers):
            self._views.append(RunView(static.run_id, name="static"))
            screen.note("what grew is trained from its first step, for as many FLOPs")
        else:
            self._run_ids.remove(static.run_id)
            self._static = None

    def _read_ahead(self) -> None:
        """Once all runs are over, open the history, while the trainers and the archive come to their end.

        Its files are looked at by that: the end of the command has only the newest left.
        """
        if self._history is None and self._over.issuperset(self._run_ids):
            with contextlib.suppress(EsperError):  # the archive does not begin yet; the summary says why, if it must
                self._history = self._open.enter_context(history_of(self._request.data_dir))

    def _check_room(self) -> None:
        """Raises LogUnavailable where the disk of the embedded log stays full: the trainers wait for it in vain."""
        now, status = time.monotonic(), self._lease.status
        if not status.embedded or (not status.unwritable and self._room_at is None):
            return  # nobody has said that it is
        self._room_at = self._room_at or now
        try:
            check_room(self._request.data_dir, "log")
        except LogUnavailable:
            if now - self._room_at > FULL_S:
                raise
        else:
            self._room_at = None

    def _settle(self, tail: LogTail, screen: Screen) -> None:
        """Until the last report is on the log, and everything on the log is in the archive."""
        trainers = self._trainers.trainers
        ended = {trainer.run_id for trainer in trainers if trainer.outcome and trainer.outcome.result}
        views = [view for view in self._views if view.run_id in ended]
        deadline = time.monotonic() + REPORTS_S
        while time.monotonic() < deadline and not all(view.complete for view in views):
            self._take_event(tail, screen)
            screen.refresh()
        try:
            self._wait_for_archive(ARCHIVE_S, tail, screen)
        except ArchiveBehind as error:  # it has everybody's history to read, as on a new data folder; the run is over
            self._to_go = error.to_go
        except LogUnavailable as error:
            failed = trainers[0].outcome is not None and trainers[0].outcome.error
            if not failed:
                raise
            complain(str(error))  # and why the run itself failed is the last word

    def _wait_for_archive(self, timeout_s: float, tail: LogTail, screen: Screen) -> None:
        screen.note("waiting for the archive to hold everything")

        waiting = Waiting(screen.note)

        def meanwhile(to_go: int) -> None:
            waiting.tell(to_go)
            self._take_news(screen)
            screen.refresh()

        wait_for_archive(
            self._request.data_dir, tail.ends(timeout_s), timeout_s, meanwhile, lambda: self._lease.status.unwritable
        )

    def _take_event(self, tail: LogTail, screen: Screen) -> None:
        event = tail.take(TICK_S)
        if event is None:
            return
        view = next(view for view in self._views if view.run_id == event.run_id)
        if body_name(event) == "run_finished":
            self._over.add(event.run_id)
        if view.apply(event):
            screen.show(view, event)
        if self._instructor is not None:
            self._instructor.see(event, self._lease.brokers)

    def _take_news(self, screen: Screen) -> None:
        """What a person's code prints and the supervisor says; where that is gone, another one is started."""
        for trainer in self._trainers.trainers:
            for line in trainer.printed():
                screen.printed(trainer.name, line)
        try:
            changed = self._lease.poll()
        except client.SupervisorGone:
            screen.note("the supervisor is gone; starting another one")
            self._lease.renew()
            return
        if self._lease.status.state == "failed":
            self._lease.wait_ready()  # says why
        if changed and self._lease.status.degraded:
            troubled = [service for service in self._lease.status.services if service.state != "ready"]
            screen.note(", ".join(f"{s.name} {s.state} ({s.last_exit})" for s in troubled))

    def _outcome(self) -> str:
        grown, *others = self._trainers.trainers
        assert grown.outcome is not None
        if grown.outcome.wrong_input:
            raise InvalidInput(grown.outcome.error)
        if grown.outcome.error or grown.outcome.result is None:
            return grown.outcome.error
        self._hook_ms = grown.outcome.result["hook_ms"]
        self._flops = grown.outcome.result["flops"]
        self._steps = grown.outcome.steps
        last = [each.outcome.steps[1] for each in others if each.outcome is not None and each.outcome.steps is not None]
        if self._steps is not None:
            self._steps = (self._steps[0], max(self._steps[1], *last, 0.0))
        self._torch_import_s = grown.outcome.torch_import_s
        for other in others:
            if other.outcome is not None and other.outcome.error:
                complain(self._of_other(other))
        return ""

    def _of_other(self, other: Trainer) -> str:
        """Why the control or static run came to no result, and how it goes on where it can."""
        assert other.outcome is not None
        end = next(view.finished for view in self._views if view.run_id == other.run_id)
        if other.outcome.wrong_input:
            return f"the {other.name} run failed: {other.outcome.error}"
        how = "failed" if end is not None and end.status == "failed" else "ended early"
        way = f"`esper resume {grown_run(other.run_id)}` goes on with it"
        return f"the {other.name} run {how}: {other.outcome.error}; {way}"

    def summary(self, since: float) -> Summary:
        """All runs as the archive tells them, now that it holds everything; the processes end meanwhile.

        A run of which it lacks something is told as the log had it. `since` is when the command began, on the clock
        `time.monotonic`.
        """
        self._lease.let_go()
        with self._open:
            history = self._history or self._open.enter_context(history_of(self._request.data_dir))
            archived = [RunView.of(run_id, EventReader(history, run_id).new()) for run_id in self._told]
            gone = gone_since(self._begins, history.manifest.gaps)
        followed = {view.run_id: view for view in self._views}
        views, lacks = zip(*(view.filled(followed.get(view.run_id)) for view in archived), strict=True)
        grown, by_id = views[0], {view.run_id: view for view in views}
        return Summary(
            grown=grown,
            control=by_id.get(control_of(grown.run_id)),
            static=by_id.get(static_of(grown.run_id)),
            seed=self._request.seed,
            hook_ms=self._hook_ms,
            cost=self.cost(since),
            data_dir=str(self._request.data_dir),
            flops=self._flops,
            lost=0 if self._to_go else sum(lacks),
            gone=gone,
            to_go=self._to_go,
            profile=self._request.trace_of(grown.run_id),
        )

    def cost(self, since: float) -> Cost:
        """What the command took until now."""
        return Cost.until_now(since, self._steps, self._torch_import_s)


def gone_since(begins: Mapping[Place, int], gaps: Iterable[Gap]) -> int:
    """How many offsets behind `begins` the log did not give the archive."""
    return sum(
        max(0, gap.next - max(gap.first, begins[gap.topic, gap.partition]))
        for gap in gaps
        if (gap.topic, gap.partition) in begins
    )
