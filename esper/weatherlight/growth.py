"""The session of `esper.grow`: the loop engine's own, with the data folder's log or without one.

Nothing is started, joined or written before the first batch has been through the model once.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar

from torch import distributed

from esper.errors import InvalidInput, LogUnavailable
from esper.kasmina.passes import Closure
from esper.leyline.objects import ObjectStore
from esper.leyline.verifier import CommandVerifier
from esper.tolaria.appointed import Appointment, Call, RunOver, TwoAtOnce
from esper.tolaria.config import RunConfig
from esper.tolaria.dry_run import dry_run, explained
from esper.tolaria.engine import Session
from esper.tolaria.outside import Clock, KernelSource, Outside
from esper.tolaria.own_code import Place
from esper.tolaria.own_data import fingerprint_of, reasons
from esper.tolaria.replay import NullLog
from esper.tolaria.run_state import place_of_script, set_place_of_script
from esper.tolaria.script import this_script
from esper.tolaria.script_work import Brought, Probe, ScriptWork, make_script_run, replica_of
from esper.tolaria.shared_world import SharedWorld
from esper.tolaria.static_script import build_structure, fit_epochs, stretch
from esper.tolaria.tasks.task import Evaluation
from esper.tolaria.world import LiveWorld, World
from esper.weatherlight.alive import this_process
from esper.weatherlight.beginning import trace_file
from esper.weatherlight.connected import NOWHERE, REAL_CLOCK, alarms_of, connected, local_log
from esper.weatherlight.late import LateAlarms, LateLibrary, LateLog
from streams.keys import load_key_ring
from streams.objects import object_store
from streams.settings import Settings

_Batch = TypeVar("_Batch")

AUTO: Final = "auto"
ARCHIVE_S: Final = 30.0


class Growth(Session):
    """A run in a person's own loop; `run_id` is what `esper runs`, `why`, `sql` and `esper.load` know it by.

    `epochs`, `batches` and `step` are a loop's; `report` takes the test, once, at the end. For loops that cannot give
    a closure there are `before_batch`, `after_backward`, `before_step`, `after_step` and `end_epoch`. `stepped` says
    whether the last `step` moved the weights, where gradients are accumulated or scaled.
    """

    def __init__(
        self,
        brought: Brought,
        config: RunConfig,
        *,
        run_id: str,
        settings: Settings,
        log: str | None,
        where: Place | None,
        appointment: Appointment | None,
        call: Call,
        profile: bool,
    ) -> None:
        self._settings = settings
        self._is_context = self._is_begun = self._is_over = False
        self._where = where
        self._appointment = appointment
        self._call = call
        self._asked_to_stop = threading.Event()
        self._open = ExitStack()
        self._late_log, self._late_library, self._late_alarms = LateLog(), LateLibrary(), LateAlarms()
        self._how = log
        self._looked_at = False
        self._follows = False
        """Whether this is another rank than the one that has the log."""
        self._lease: Any = None
        self._profile: AbstractContextManager[Any] = nullcontext()
        objects = object_store(settings.data)
        asked = config.epochs
        assert asked is not None
        world: World
        if appointment is not None:
            world, run_id, config = appointment.world, appointment.run_id, appointment.config or config
        else:
            library = self._late_library if log is not None else None
            outside = self._outside(objects, REAL_CLOCK, library)
            if profile and (replica_of(brought.model) is None or distributed.get_rank() == 0):
                from esper.tolaria.profile import Profile  # noqa: PLC0415 - few runs are profiled

                self._profile = Profile(REAL_CLOCK, trace_file(settings.data, run_id))
                outside = self._profile.outside(outside)
            world = LiveWorld(outside)
        if replica_of(brought.model) is not None:
            run_id = _of_rank_0(run_id)
            self._follows = distributed.get_rank() != 0
            world = SharedWorld(world)
        call.run_id = run_id
        with explained(brought.model, brought.probe, "probe", where):
            run = make_script_run(config, brought, world, run_id=run_id)
        build_structure(run)
        super().__init__(run)
        self._objects = objects
        self._late = appointment is None or appointment.is_new
        self._brought, self._asked = brought, asked
        if run.config.structure and not self._late:
            stretch(brought.scheduler, made_for=asked, epochs=run.epochs)

    def _outside(self, objects: ObjectStore, clock: Clock, library: KernelSource | None) -> Outside:
        verifier = CommandVerifier(load_key_ring(self._settings, NOWHERE if self._how is None else None))
        stop, alarms = self._asked_to_stop.is_set, self._late_alarms
        return Outside(self._late_log, clock, objects, verifier, library, stop, this_process(), alarms=alarms)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.run.recorder.run_id

    def stop(self) -> None:
        """End the run before its next step, as interrupted: `esper resume` goes on with it."""
        self._asked_to_stop.set()

    def report(self, test: Probe) -> Evaluation:
        """The test's figures, which become the run's result; gates and policies never see them.

        `test(model)` gives losses (N,), (losses, {"mae": ...}) or metrics alone, {"accuracy": 0.9}. It ends a run that
        is not used as a context.
        """
        work = self.run.work
        assert isinstance(work, ScriptWork)
        found = work.report(self.run.host, test)
        if not self._is_context:
            self.__exit__(None, None, None)
        return found

    def epochs(self) -> Iterator[int]:
        """The number of each epoch, from 0 on; the same one again where a rollback went back to its beginning."""
        if not self._late and not self._is_begun:  # run again under its record, and nobody entered a context
            super().__enter__()
        self._is_begun = True
        return super().epochs()

    def batches(self, loader: Iterable[_Batch]) -> Iterator[_Batch]:
        """As in any session; the first batch of all is looked at, for the fingerprint of the data."""
        found = super().batches(loader)
        return found if self._looked_at else self._look_at(loader, found)

    def _look_at(self, loader: object, batches: Iterator[_Batch]) -> Iterator[_Batch]:
        for batch in batches:
            if not self._looked_at:
                self._note_data(loader, batch)
            yield batch

    def _note_data(self, loader: object, batch: object) -> None:
        run, self._looked_at = self.run, True
        assert isinstance(run.work, ScriptWork)
        run.work.data_fingerprint = fingerprint_of(loader, batch)
        if self._appointment is not None:
            recorded = "" if run.recorder.step else self._appointment.data
            self._appointment.reasons += reasons(loader, run.work.data_fingerprint, recorded)

    def before_batch(self, batch: object = None) -> bool:
        """As in any session; raises TwoAtOnce for a step that a record does not have alone."""
        if self._appointment is not None:
            self._appointment.check_alone()
        if batch is not None and not self._looked_at:
            self._note_data(None, batch)
        return super().before_batch(batch)

    def __enter__(self) -> Self:
        """The run; leaving it ends it, and an error on the way is told to the history."""
        self._is_context = self._is_begun = True
        super().__enter__()
        return self

    # ------------------------------------------------------------------------------------------- beginning and ending

    def begin_late(self, closure: Closure | None) -> None:
        """Try the first batch, then open the log, and bring the run to its first fact."""
        work = self.run.work
        assert isinstance(work, ScriptWork)
        if closure is not None:
            with work.eagerly():
                dry_run(self.run.host, {}, closure, where=self._where)
        if self._appointment is None:
            self._connect()
            ranks = distributed.get_world_size() if self.run.shared else 0
            work.recorded = this_script(self._objects, ranks=ranks, before=self._call.before)
        elif self._appointment.script is None:
            raise TwoAtOnce  # on record this one had not begun when the next was made
        else:
            work.recorded = self._appointment.script
            if self.run.config.flops_budget is not None:
                self._fit_epochs(closure, self._appointment.steps)
        self._call.began = True
        super().begin_late(closure)

    def _fit_epochs(self, closure: Closure | None, steps: int) -> None:
        """Plan a static run, whose budget is known and whose first batch is there; the script's place is kept."""
        place = place_of_script(self.run)
        try:
            fit_epochs(self.run, closure, samples=self._samples, steps=steps)
        finally:
            set_place_of_script(self.run, place)
            self.run.told = {}
        stretch(self._brought.scheduler, made_for=self._asked, epochs=self.run.epochs)

    def _connect(self) -> None:
        """Open the log, which what follows needs."""
        settings, run_id = self._settings, self.run_id
        self._open.enter_context(self._profile)
        if self._follows:
            self._late_log.real = NullLog()
            return
        if self._how is None:
            local = local_log(settings, self._objects)
            self._open.callback(local.close)
            self._late_log.real = local
            self._late_alarms.real = alarms_of(self._open, settings, run_id)
            return
        brokers = self._join() if self._how == AUTO else self._how
        outside, log, _ = connected(
            self._open, settings, brokers, run_id, archived=None, stop=self._asked_to_stop.is_set
        )
        self._late_log.real, self._late_library.real, self._late_alarms.real = log, outside.library, outside.alarms

    def _join(self) -> str:
        """The address of the data folder's log, whose processes are started where none run."""
        from esper.weatherlight import client  # noqa: PLC0415 - only who has a log joins it

        self._lease = client.join(
            self._settings.data, client=f"esper.grow {self.run_id}", brokers=self._settings.brokers
        )
        self._open.callback(self._lease.release)
        self._lease.wait_ready()
        brokers: str = self._lease.brokers
        return brokers

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_over:  # a library tells its callbacks of an error, RunOver among them, after the run has ended
            return
        self._is_over = True
        try:
            if self._late and error is None:
                _refuse_empty()
            if not self._late:
                super().__exit__(kind, error, traceback)
        except BaseException as failure:
            self._over(failure)
            raise
        else:
            self._over(error)
        if self._appointment is not None and self._appointment.is_last:
            raise RunOver from error

    def _over(self, error: BaseException | None) -> None:
        """Close what was opened, and tell whoever had the script run again."""
        if self._appointment is not None and self._appointment.error is None:
            self._appointment.result, self._appointment.error = self.result, error
        try:
            if self._lease is not None and error is None:
                self._wait_for_archive()
        finally:
            self._open.close()

    def _wait_for_archive(self) -> None:
        """So that whoever looks next finds the run whole."""
        from streams.log_ends import log_ends  # noqa: PLC0415 - only who has a log waits for it

        ends = log_ends(self._settings.data, self._lease.brokers) or {}
        wait_a_while(self._settings.data, ends, ARCHIVE_S, self._lease.unwritable)


def wait_a_while(
    data_dir: Path, ends: Mapping[tuple[str, int], int], timeout_s: float, unwritable: Callable[[], str]
) -> None:
    """Wait until the archive covers `ends`; warn where it does not in time.

    The log has all of the run by then, and what a script does after its training must not be lost over a slow archive.
    """
    from esper.cli.history import wait_for_archive  # noqa: PLC0415 - only who has a log waits for it

    try:
        wait_for_archive(data_dir, ends, timeout_s, lambda _to_go: None, unwritable)
    except LogUnavailable as late:
        warnings.warn(str(late), stacklevel=2)


def _of_rank_0(run_id: str) -> str:
    """The run's id as rank 0 drew it."""
    told = [run_id]
    distributed.broadcast_object_list(told, 0)
    return told[0]


def _refuse_empty() -> NoReturn:
    raise InvalidInput("the run had no step: write `for epoch in run.epochs():` and call run.step in it")
