"""The kernels that `esper blueprints compile` asked for: how far each is, shown while one waits, and what they cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

from contracts.leyline.v1.event_pb2 import CompileRequested
from esper.cli.blueprints.catalogue import shape_text
from esper.cli.blueprints.show import microseconds
from esper.cli.output import DIM, GREEN, RED, one_line, say, say_json, styled, table, visible
from esper.karn.table import CATALOGUE
from esper.tezzeret.pipelines import pipeline

if TYPE_CHECKING:
    from esper.cli.blueprints.conversation import Conversation


if TYPE_CHECKING:
    from rich.progress import TaskID


Outcome = Literal["waiting", "compiling", "stored", "skipped", "parked"]
HEADERS: Final = ("name", "id", "site", "outcome", "compiling", "eager", "compiled", "speed-up", "serves")
_STYLES: Final = {"stored": GREEN, "skipped": DIM, "parked": RED}
_WORDS: Final = {"skipped": "stored already", "parked": "given up"}


@dataclass(slots=True)
class Kernel:
    """One kernel on its way. `skipped` means that it was stored before anybody asked.

    `attempts_made` is how often it was tried in vain before it was given up, which a new request must name.
    """

    request: CompileRequested
    outcome: Outcome = "waiting"
    attempts_made: int = 0
    attempt: int = 0
    pipeline: str = ""
    reason: str = ""
    since_s: float = 0.0
    finished: Any = None

    @classmethod
    def of(cls, body: CompileRequested, talk: Conversation) -> Self:
        """The kernel that `body` asks for, as the topic has it before that."""
        kernel = cls(body)
        job = talk.job(body.job_id)
        if job is not None and job.stage == "catalogued":
            kernel.outcome, kernel.finished = "skipped", talk.last(body.job_id, "compile_finished")
        elif job is not None and job.stage == "parked":
            kernel.attempts_made = job.attempt
        return kernel

    @property
    def name(self) -> str:
        """For people: the blueprint and its site."""
        return f"{CATALOGUE[self.request.blueprint_id].full_name} {shape_text(self.request.shape)}"

    @property
    def settled(self) -> bool:
        """Whether nothing more will come."""
        return self.outcome in ("stored", "skipped", "parked")

    @property
    def limit_s(self) -> float:
        """How long the attempt that goes on may take."""
        return pipeline(self.pipeline).timeout_s if self.pipeline else 0.0

    def follow(self, talk: Conversation) -> None:
        """Take in how far the topic has its job."""
        job = talk.job(self.request.job_id)
        if self.settled or job is None or (job.stage == "parked" and job.attempt == self.attempts_made):
            return
        self.reason = job.reason
        if job.stage == "parked":
            self.outcome = "parked"
        elif job.stage == "catalogued":
            self.outcome, self.finished = "stored", talk.last(self.request.job_id, "compile_finished")
        elif job.stage == "started" and job.attempt != self.attempt:
            started = talk.last(self.request.job_id, "compile_started")
            self.outcome, self.attempt, self.pipeline = "compiling", job.attempt, started.pipeline
            self.since_s = time.monotonic()

    def to_json(self) -> dict[str, Any]:
        """Everything that is known in the end."""
        told = self.finished
        return {
            "blueprint_id": self.request.blueprint_id,
            "shape_kind": self.request.shape_kind,
            "shape": list(self.request.shape),
            "parameters": dict(self.request.parameters),
            "pipeline": self.request.pipeline,
            "job_id": self.request.job_id,
            "outcome": self.outcome,
            "reason": self.reason if self.outcome == "parked" else "",
            "form": told.form if told is not None else None,
            "compile_ms": round(told.compile_ms, 3) if told is not None and told.compile_ms else None,
            "eager_us": round(told.eager_us, 3) if told is not None else None,
            "compiled_us": round(told.compiled_us, 3) if told is not None and told.compiled_us else None,
            "artifact_ref": told.artifact_ref if told is not None else None,
        }

    def row(self) -> tuple[Any, ...]:
        """The same for a table."""
        blueprint_id, told = self.request.blueprint_id, self.finished
        start = (
            CATALOGUE[blueprint_id].name,
            blueprint_id,
            f"{self.request.shape_kind} {shape_text(self.request.shape)}",
            styled(_WORDS.get(self.outcome, self.outcome), *([_STYLES[self.outcome]] if self.settled else [])),
        )
        if told is None:
            return (*start, "-", "-", "-", "-", self.reason or "-")
        compiled = bool(told.compiled_us)
        return (
            *start,
            f"{told.compile_ms / 1e3:.1f} s" if compiled else "-",
            microseconds(told.eager_us),
            microseconds(told.compiled_us),
            f"{told.eager_us / told.compiled_us:.2f}" if compiled else "-",
            told.form if compiled else f"{told.form} (not compiled)",
        )


def say_kernels(kernels: Sequence[Kernel], *, as_json: bool) -> None:
    """The table, or one JSON object, of what was asked for."""
    counts = {name: sum(kernel.outcome == name for kernel in kernels) for name in ("stored", "skipped", "parked")}
    if as_json:
        say_json({**counts, "kernels": [kernel.to_json() for kernel in kernels]})
        return
    say(table(HEADERS, [kernel.row() for kernel in kernels], right=(4, 5, 6, 7)))
    say(styled("\nprocessor time of a training pass (forward and backward) at batch 64; the faster form serves", DIM))
    say(f"{counts['stored']} stored, {counts['skipped']} stored already, {counts['parked']} given up")


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
        stream.write(visible(text) + "\n")
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
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}", style="dim", markup=False),
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
        from rich.text import Text  # noqa: PLC0415 - as above

        for kernel in kernels:
            if kernel.outcome == "compiling":
                self._move(kernel)
            elif kernel.settled and (bar := self._bars.pop(kernel.request.job_id, None)) is not None:
                self._progress.remove_task(bar)
                self._progress.console.print(Text(one_line(describe(kernel))))
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
