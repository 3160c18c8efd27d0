"""What goes on in the forge while one waits: a bar per kernel in work on a terminal, lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from esper.cli.blueprints.kernels import Kernel

if TYPE_CHECKING:
    from rich.progress import TaskID


class JobsScreen(Protocol):
    """Used as a context manager."""

    def begin(self, kernels: Sequence[Kernel]) -> None:
        """These are asked for."""

    def show(self, kernels: Sequence[Kernel]) -> None:
        """How they are now; called ten times a second or so."""

    def note(self, text: str) -> None:
        """What goes on beside them."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def make_jobs_screen(*, quiet: bool) -> JobsScreen:
    """Bars on a terminal; lines elsewhere, on stderr where stdout is for one JSON object (`quiet`)."""
    return Bars() if sys.stdout.isatty() and not quiet else Lines(quiet=quiet)


class Lines:
    """One line for every attempt that begins and every kernel that is settled."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._told: dict[str, tuple[str, int]] = {}

    def begin(self, kernels: Sequence[Kernel]) -> None:
        """What is stored already is told of in the table."""
        self._told = {kernel.request.job_id: (kernel.outcome, kernel.attempt) for kernel in kernels}

    def show(self, kernels: Sequence[Kernel]) -> None:
        """Print what has changed."""
        for kernel in kernels:
            now = (kernel.outcome, kernel.attempt)
            if now != self._told[kernel.request.job_id]:
                self._told[kernel.request.job_id] = now
                done = sum(each.settled for each in kernels)
                self.note(f"[{done}/{len(kernels)}] {describe(kernel)}")

    def note(self, text: str) -> None:
        """Print it."""
        stream = sys.stderr if self._quiet else sys.stdout
        stream.write(text + "\n")
        stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Bars:
    """A bar for all kernels and one for each in work, which fills as its time runs out; gone when all is over."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - only a terminal needs rich
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}", style="dim"),
            TimeElapsedColumn(),
            console=Console(),
            transient=True,
        )
        self._all: TaskID = self._progress.add_task("kernels", total=None, state="")
        self._bars: dict[str, TaskID] = {}

    def begin(self, kernels: Sequence[Kernel]) -> None:
        """The first bar counts them."""
        self._progress.update(self._all, total=len(kernels))

    def show(self, kernels: Sequence[Kernel]) -> None:
        """Move the bars; a kernel that is settled becomes a line above them."""
        for kernel in kernels:
            if kernel.outcome == "compiling":
                self._move(kernel)
            elif kernel.settled and (bar := self._bars.pop(kernel.request.job_id, None)) is not None:
                self._progress.remove_task(bar)
                self._progress.console.print(describe(kernel), highlight=False)
        done = sum(kernel.settled for kernel in kernels)
        self._progress.update(self._all, completed=done, state=f"{done} of {len(kernels)}")

    def note(self, text: str) -> None:
        """Shown beside the first bar until the kernels move."""
        self._progress.update(self._all, state=text)

    def _move(self, kernel: Kernel) -> None:
        state = f"{kernel.pipeline}, attempt {kernel.attempt}"
        if kernel.request.job_id not in self._bars:
            self._bars[kernel.request.job_id] = self._progress.add_task(kernel.name, state=state)
        self._progress.update(
            self._bars[kernel.request.job_id],
            total=kernel.limit_s,
            completed=min(time.monotonic() - kernel.since_s, kernel.limit_s),
            state=state,
        )

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, traceback)


def describe(kernel: Kernel) -> str:
    """How a kernel is, in one line."""
    told = kernel.finished
    match kernel.outcome:
        case "compiling":
            again = f", attempt {kernel.attempt} after: {kernel.reason}" if kernel.reason else ""
            return f"{kernel.name}: compiling ({kernel.pipeline}{again})"
        case "parked":
            return f"{kernel.name}: given up, {kernel.reason}"
        case "stored" | "skipped" if told is not None and told.compiled_us:
            return (
                f"{kernel.name}: stored, {told.form} serves ({told.eager_us:,.0f} against {told.compiled_us:,.0f} µs)"
            )
        case "stored" | "skipped":
            return f"{kernel.name}: stored, eager"
        case _:
            return f"{kernel.name}: waiting"
