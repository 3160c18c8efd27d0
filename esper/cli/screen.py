"""The live view of `esper run`: a panel that is redrawn on a terminal, plain lines anywhere else."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from esper.cli.events import headline
from esper.cli.output import one_line, visible
from esper.cli.run_view import RunView
from esper.karn.table import with_names
from esper.leyline.envelope import Event, body_name

if TYPE_CHECKING:
    from rich.console import RenderableType

REDRAWN_S: Final = 0.125
_TOLD: Final = frozenset(
    {
        "command_rejected",
        "decision_timed_out",
        "gate_evaluated",
        "rolled_back",
        "run_finished",
        "run_resumed",
        "seed_absorbed",
        "seed_transitioned",
    }
)
"""What gets a line of its own where lines are printed, beside the epochs and the decisions that do something."""

_STAGE_STYLE: Final = {
    "TRAINING": "cyan",
    "BLENDING": "yellow",
    "SHADOWING": "yellow",
    "PROBATIONARY": "magenta",
    "FOSSILIZED": "green",
    "CULLED": "red",
    "EMBARGOED": "red",
}


class Screen(Protocol):
    """Shows the runs that go on; used as a context manager."""

    def show(self, view: RunView, event: Event) -> None:
        """An event was just taken in by `view`."""

    def note(self, text: str) -> None:
        """What goes on beside the runs, such as processes starting."""

    def printed(self, name: str, line: str) -> None:
        """A person's own code printed a line in the run of this name."""

    def refresh(self) -> None:
        """Called ten times a second or so."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def make_screen(title: str, views: Sequence[RunView], *, quiet: bool) -> Screen:
    """The panel on a terminal; lines elsewhere, on stderr where stdout is for one JSON object (`quiet`)."""
    if sys.stdout.isatty() and not quiet:
        return Panel(title, views)
    return Lines(views, quiet=quiet)


def name_of(view: RunView, number: int) -> str:
    """What a run is called on the screen: as its trainer is, or else by its place."""
    return view.name or ("control" if number else "grown")


class Lines:
    """One line for every epoch, seed transition, gate and decision to act."""

    def __init__(self, views: Sequence[RunView], *, quiet: bool) -> None:
        self._names = {view.run_id: name_of(view, number) for number, view in enumerate(views)}
        self._quiet = quiet
        self._last_note = ""

    def show(self, view: RunView, event: Event) -> None:
        """Print what the event says, if it is one that people follow."""
        name = body_name(event)
        if name == "epoch_completed":
            self._print(view, f"epoch {event.epoch}/{view.epochs_total}  {headline(event)}")
        elif name in _TOLD or (name == "decision_made" and event.decision_made.command_id):
            label = name.split("_")[0]
            self._print(view, f"  {label}: {headline(event)}")

    def note(self, text: str) -> None:
        """Print a note that differs from the last one."""
        if text != self._last_note:
            self._last_note = text
            self._write(text)

    def printed(self, name: str, line: str) -> None:
        """Print it behind the run's name, as all that happens there."""
        self._write(f"{name:<8} | {line}")

    def refresh(self) -> None:
        """Lines are out as soon as they are known."""

    def _print(self, view: RunView, text: str) -> None:
        self._write(f"{self._names.get(view.run_id, view.name or view.run_id):<8} {text}")

    def _write(self, text: str) -> None:
        stream = sys.stderr if self._quiet else sys.stdout
        stream.write(visible(text) + "\n")
        stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Panel:
    """Progress, seeds and decisions, redrawn in place and gone when the run is over: the summary says it all again."""

    def __init__(self, title: str, views: Sequence[RunView]) -> None:
        from rich.console import Console  # noqa: PLC0415 - plain lines and reading commands do without rich
        from rich.live import Live  # noqa: PLC0415

        self._title = title
        self._views = views
        self._note = ""
        self._since = time.monotonic()
        self._drawn = 0.0
        self._live = Live(console=Console(), auto_refresh=False, transient=True)

    def show(self, view: RunView, event: Event) -> None:
        """The next redraw shows it: everything is in the view."""

    def note(self, text: str) -> None:
        """Shown in the last line."""
        self._note = text

    def printed(self, name: str, line: str) -> None:
        """Above the panel, where it stays."""
        from rich.text import Text  # noqa: PLC0415

        self._live.console.print(Text(visible(f"{name} | {line}")))

    def refresh(self) -> None:
        """Redraw, at most eight times a second."""
        now = time.monotonic()
        if now - self._drawn >= REDRAWN_S:
            self._drawn = now
            self._live.update(self.draw(now - self._since), refresh=True)

    def draw(self, elapsed_s: float) -> RenderableType:
        """The whole panel."""
        from rich.console import Group  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right")
        head.add_row(Text(one_line(self._title), style="bold"), Text(f"{elapsed_s:.0f} s", style="dim"))
        parts: list[RenderableType] = [head, Text(), self._progress()]
        grown = self._views[0]
        if grown.seeds:
            parts += [Text(), self._seeds(grown)]
        if grown.decisions:
            parts += [Text(), Text("last decisions", style="dim")]
            parts.append(self._decisions(grown))
        parts += [Text(), Text(one_line(self._note), style="dim")]
        return Group(*parts)

    def _progress(self) -> RenderableType:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        grid = Table.grid(padding=(0, 2), expand=True)
        for _ in range(2):
            grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        for _ in range(4):
            grid.add_column(no_wrap=True, justify="right")
        for number, view in enumerate(self._views):
            name = name_of(view, number)
            bar = ProgressBar(total=max(view.epochs_total, 1), completed=view.epoch)
            known = not math.isnan(view.loss)
            of = f" on {view.started.probe_samples}" if view.started else ""
            figures = (f"loss {view.loss:.3f}", f"probe {view.probe_loss:.3f}", _measured(view) + of)
            size = f"{view.parameters:,} params" if view.parameters else ""
            grid.add_row(
                name, f"{view.epoch}/{view.epochs_total or '?'}", bar, *(figures if known else ("",) * 3), size
            )
        return grid

    @staticmethod
    def _decisions(view: RunView) -> RenderableType:
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column()
        for epoch, line in reversed(view.decisions):
            grid.add_row(f"  epoch {epoch:>2}", Text(one_line(line)))
        return grid

    @staticmethod
    def _seeds(view: RunView) -> RenderableType:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        names = {seed.seed_id: with_names(seed.blueprint_id) for seed in view.seeds.values()}
        table.add_column("seed", no_wrap=True)
        table.add_column("site", min_width=_longest_word(seed.site for seed in view.seeds.values()))
        table.add_column("stage", no_wrap=True)
        table.add_column("blueprint", min_width=_longest_word(names.values()))
        table.add_column("alpha", no_wrap=True)
        table.add_column(no_wrap=True)
        for seed in view.seeds.values():
            style = _STAGE_STYLE.get(seed.stage, "dim" if seed.stage == "DORMANT" else "")
            alpha = seed.alpha if seed.stage != "DORMANT" else 0.0
            bar: RenderableType = ProgressBar(total=1.0, completed=alpha, width=10) if alpha else Text("")
            table.add_row(
                Text(one_line(seed.seed_id)),
                Text(one_line(seed.site)),
                Text(seed.stage, style=style),
                Text(one_line(names[seed.seed_id])),
                bar,
                f"{alpha:.2f}" if alpha else "",
            )
        return table

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, traceback)


def _measured(view: RunView) -> str:
    """The main metric on the probe set."""
    return one_line(view.figures[0].phrase) if view.figures else ""


def _longest_word(texts: Iterable[str]) -> int:
    return max((len(word) for text in texts for word in text.split()), default=1)
