"""`esper learn headroom`: an estimate before it starts, a line or a bar while it trains, and the table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.cli.in_process import stopping
from esper.cli.output import BOLD, complain, say, say_json, styled, table

if TYPE_CHECKING:
    from esper.simic.headroom import Progress
    from esper.simic.headroom_table import Gain, Table

FOLDER: Final = Path("learn", "headroom")
REDRAWN_S: Final = 0.5
TOLD_S: Final = 60.0


def headroom_command(
    folder: Path,
    given: Mapping[str, Any],
    *,
    minutes: float | None,
    price: float | None,
    own_folder: bool,
    only_table: bool,
    as_json: bool,
) -> int:
    """Measure and print; 1 where rollouts are missing still. Raises InvalidInput for a task that does not exist."""
    from esper.simic.headroom import Headroom, Plan  # noqa: PLC0415 - torch, which a mistake need not wait for
    from esper.simic.headroom_table import table_of  # noqa: PLC0415
    from esper.simic.utility import PRICE  # noqa: PLC0415
    from esper.tolaria.outside import Clock  # noqa: PLC0415
    from esper.tolaria.tasks import load_task  # noqa: PLC0415

    plan = Plan(**given)
    for name in plan.tasks:
        load_task(name)
    folder = folder if own_folder else folder / FOLDER
    deadline = None if minutes is None else time.monotonic() + 60.0 * minutes
    complete = True
    with stopping() as stop, _shown(quiet=as_json) as tell:
        work = Headroom(
            plan,
            folder,
            Clock(time.monotonic, time.time_ns),
            tell=tell,
            stop=lambda: stop.asked or (deadline is not None and time.monotonic() >= deadline),
        )
        if not only_table:
            if not as_json:
                say(f"{work.progress.done:,} of at most {work.progress.total:,} rollouts are there, in {folder}")
                say(f"the rest takes about {_time(work.estimate_s())} on one core")
            complete = work.work()
    found = table_of(work.ledger, PRICE if price is None else price)
    if as_json:
        progress = {"done": work.progress.done, "total": work.progress.total, "complete": complete, "folder": folder}
        say_json(progress | {"table": None if found is None else found.to_dict()})
    elif found is None:
        complain(f"no state has all its rollouts yet, of {work.progress.done} that there are; run it again to go on")
    else:
        say("\n".join(_lines(found)))
    if not complete and not as_json:
        complain(f"{work.progress.done:,} of {work.progress.total:,} rollouts are done; the same command goes on")
    return int(not complete)


def _lines(found: Table) -> Iterator[str]:
    """The table, and what it says in words."""
    yield (
        f"{found.states} states of {found.runs} runs, {found.rollouts:,} rollouts; the heuristic acted at "
        f"{found.acting} of them"
    )
    yield f"utility = -(probe loss + {found.price:g} * training FLOPs of the run / of its control)"
    yield "gain over the heuristic's own choice, in standard deviations of the noise [95 % over runs]:"
    arms = list(found.tasks["all"])
    rows = [
        [name, *found.counts[name], _figure(found.noise.get(name)), *(_told(arm) for arm in found.tasks[name].values())]
        for name in found.tasks
    ]
    yield table(["task", "states", "runs", "noise", *arms], rows, right=(1, 2, 3))
    yield ""
    yield "the best of fork by the price of FLOPs:"
    yield table(["price", "gain"], [[f"{price:g}", _told(gain)] for price, gain in found.curve.items()], right=(0,))
    yield ""
    for where, gain in found.by_choice.items():
        yield f"where the heuristic {where}: {_told(gain)}"
    kinds = ", ".join(f"{kind} {count}" for kind, count in found.better.items())
    yield f"the best of a fork was: {kinds}"
    best = found.tasks["all"]["best of fork"]
    if found.enough:
        yield styled(f"there is headroom: {best.mean:.2f} deviations, 2 are asked for", BOLD)
    else:
        yield styled(f"there is not enough headroom: {best.mean:.2f} deviations, and 2 are asked for", BOLD)


def _told(gain: Gain) -> str:
    if gain.low != gain.low:
        return f"{gain.mean:+.2f} (one run)"
    return f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _time(duration_s: float) -> str:
    if duration_s < 90:
        return f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 5400 else f"{duration_s / 3600:.1f} h"


@contextmanager
def _shown(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, on stderr; a line a minute elsewhere."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    console = Console(stderr=True, quiet=quiet)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    last = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("", total=None)

        def tell(progress: Any) -> None:
            nonlocal last
            left = "" if progress.left_s is None else f", {_time(progress.left_s)} left"
            if console.is_terminal:
                bar.update(shown, completed=progress.done, total=progress.total, description=progress.where + left)
            elif time.monotonic() - last >= TOLD_S and not quiet:
                last = time.monotonic()
                sys.stderr.write(f"{progress.done:,} of {progress.total:,} rollouts{left}; {progress.where}\n")
                sys.stderr.flush()

        yield tell
