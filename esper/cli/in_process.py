"""`esper run --in-process`: the trainer in the command's own process, so that a breakpoint and a debugger work.

Log and workers run as ever, and the run is recorded like any other. It trains alone, without control and static run,
and nothing is drawn on the terminal meanwhile.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from esper.cli import INTERRUPTED, RUN_FAILED
from esper.cli.history import Waiting, history_of, new_run_id, wait_for_archive
from esper.cli.output import complain, say, say_json
from esper.cli.run_view import RunView
from esper.cli.summary import Cost, Summary
from esper.cli.trainers import Outcome, outcome_of
from esper.errors import InvalidInput, LogUnavailable
from esper.weatherlight import client
from esper.weatherlight.trainer import NEW, StopFlag, train_here
from projections.run_queries import EventReader
from streams.consumer import ends_of

if TYPE_CHECKING:
    from esper.cli.run import RunRequest
    from streams.settings import Settings

ARCHIVE_S: Final = 30.0
REPORTS_S: Final = 3.0
POLL_S: Final = 0.1


def run_in_process(request: RunRequest, settings: Settings) -> int:
    """Train one run here and print its summary; the exit code. Raises InvalidInput and LogUnavailable."""
    since = time.monotonic()
    config, _ = request.configs()
    run_id = new_run_id()
    with contextlib.ExitStack() as stack:

        def brokers() -> str:
            lease = client.join(request.data_dir, client=f"esper run {run_id}", brokers=settings.brokers)
            stack.enter_context(lease)
            lease.wait_ready()
            if not request.as_json:
                say(f"run {run_id} trains in this process; data {request.data_dir}, log {lease.brokers}")
            addresses.append(lease.brokers)
            return lease.brokers

        addresses: list[str] = []
        with stopping() as stop:
            told = train_here(
                request.data_dir, run_id, config, brokers, stop, plan=replace(NEW, profile=request.profile)
            )
            outcome = outcome_of("grown", told)
        if outcome.wrong_input:
            raise InvalidInput(outcome.error)
        if not outcome.result:
            complain(f"{outcome.error}; `esper events {run_id}` has what was recorded")
            return RUN_FAILED
        _settle(request.data_dir, run_id, addresses[0])
    _tell(request, run_id, outcome, since)
    if outcome.error:
        complain(outcome.error)
        return RUN_FAILED
    return INTERRUPTED if outcome.result["status"] == "interrupted" else 0


@contextlib.contextmanager
def stopping() -> Iterator[StopFlag]:
    """Within, Ctrl-C and SIGTERM end the run after its step; a second Ctrl-C ends it where it stands."""
    stop = StopFlag()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.set()

    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {
        number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settle(data_dir: Path, run_id: str, brokers: str) -> None:
    """Until the archive has all that lies on the log, the last report included."""
    deadline, waiting = time.monotonic() + REPORTS_S, Waiting(complain)
    with contextlib.suppress(LogUnavailable):  # what the archive lacks is on the log for the next archiver
        while True:
            wait_for_archive(data_dir, ends_of(brokers), ARCHIVE_S, waiting.tell)
            with history_of(data_dir) as history:
                complete = RunView.of(run_id, EventReader(history, run_id).new()).complete
            if complete or time.monotonic() > deadline:
                return
            time.sleep(POLL_S)


def _tell(request: RunRequest, run_id: str, outcome: Outcome, since: float) -> None:
    assert outcome.result is not None
    with history_of(request.data_dir) as history:
        view = RunView.of(run_id, EventReader(history, run_id).new())
    if view.finished is None:
        raise LogUnavailable(f"the archive lacks the end of run {run_id} still; the next command archives it")
    summary = Summary(
        grown=view,
        control=None,
        seed=request.seed,
        hook_ms=outcome.result["hook_ms"],
        cost=Cost.until_now(since, outcome.steps, outcome.torch_import_s),
        data_dir=str(request.data_dir),
        flops=outcome.result["flops"],
        profile=request.trace_of(run_id),
    )
    say_json(summary.to_json()) if request.as_json else say(summary.text())
