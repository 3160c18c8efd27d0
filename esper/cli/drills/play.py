"""`esper drill`: drills played one after the other, each in a folder of its own, and a table of what came of them."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from esper.cli import INTERRUPTED, RUN_FAILED
from esper.cli.drills.ear import Ear, Heard
from esper.cli.drills.scene import Scene
from esper.cli.drills.table import BY_NAME, DRILLS, Drill
from esper.cli.output import DIM, GREEN, RED, YELLOW, complain, say, say_json, say_json_rows, styled, table
from esper.errors import EsperError, InvalidInput
from esper.leyline import names as words
from esper.weatherlight.contention import contended_s
from streams.settings import Settings

ALL: Final = "all"
LATE_S: Final = 2.0
"""From the moment at which an alert's rule holds to the alert (ruling 36)."""
ENDS: Final = {0: "completed", RUN_FAILED: "failed", INTERRUPTED: "interrupted"}
HEADERS: Final = ("drill", "expected", "seen", "told after", "late by", "cleared after", "run", "verdict")


@dataclass(slots=True)
class Outcome:
    """What came of a drill; times in seconds, None for what did not come.

    `told_s` and `cleared_s` count from the break to the alert and from the mending to its end, as people hear of it;
    `late_s` from the moment at which the alert's rule held, where that can be seen from outside. `contended_s` is how
    long anything on the machine waited for a processor until the alert: so much later may it come.
    """

    drill: str
    breaks: str
    expected: str
    runbook: str
    seen: tuple[str, ...] = ()
    told_s: float | None = None
    late_s: float | None = None
    contended_s: float = 0.0
    cleared_s: float | None = None
    run: str = ""
    verdict: str = ""
    why: str = ""
    folder: str = ""


def list_drills(*, as_json: bool) -> None:
    """Print what drills there are."""
    if as_json:
        named = ("drill", "breaks", "expected", "runbook")
        say_json_rows([dict(zip(named, (d.name, d.breaks, d.alert, d.page), strict=True)) for d in DRILLS])
        return
    rows = [(each.name, each.breaks, each.alert or "none", each.page) for each in DRILLS]
    say(table(("drill", "breaks", "expected", "runbook"), rows))


def drill_command(
    chosen: Sequence[str], place: Path | None, scale: float, pids: Sequence[int], *, as_json: bool
) -> int:
    """Play drills and print the table; 1 where one did not come out. Raises InvalidInput for a name that is none."""
    drills = _meant(chosen)
    outcomes: list[Outcome] = []
    with _folder(place) as folder, Ear() as ear:
        for number, drill in enumerate(drills, 1):
            if not as_json:
                say(styled(f"{number}/{len(drills)}  {drill.name}: {drill.breaks}", DIM))
            outcome = _played(drill, folder / drill.name, ear, scale, pids)
            outcomes.append(outcome)
            if outcome.why:
                complain(f"{drill.name} {outcome.verdict}: {outcome.why}" + _where(outcome))
        if place is None and all(each.verdict != "failed" for each in outcomes):
            shutil.rmtree(folder, ignore_errors=True)
    passed = all(each.verdict != "failed" for each in outcomes)
    if as_json:
        say_json({"passed": passed, "window_scale": scale, "drills": [asdict(each) for each in outcomes]})
    else:
        say("\n" + table(HEADERS, [_cells(each) for each in outcomes], right=(3, 4, 5)))
    return 0 if passed else RUN_FAILED


def _meant(chosen: Sequence[str]) -> list[Drill]:
    if ALL in chosen:
        return list(DRILLS)
    unknown = [name for name in chosen if name not in BY_NAME]
    if unknown or not chosen:
        said = f"there is no drill {words.shown(unknown[0])}" if unknown else "say which drill"
        raise InvalidInput(f"{said}; there are {', '.join(BY_NAME)}, and `{ALL}` is every one")
    return [BY_NAME[name] for name in dict.fromkeys(chosen)]


@contextmanager
def _folder(place: Path | None) -> Iterator[Path]:
    yield Path(tempfile.mkdtemp(prefix="esper-drill-")) if place is None else place.resolve()


def _where(outcome: Outcome) -> str:
    return f"; its folder is {outcome.folder}, {outcome.runbook} tells of it" if outcome.folder else ""


def _played(drill: Drill, folder: Path, ear: Ear, scale: float, pids: Sequence[int]) -> Outcome:
    outcome = Outcome(drill.name, drill.breaks, drill.alert, drill.page)
    if Settings.load().brokers is not None and drill.outside and not (drill.pids and pids):
        outcome.verdict, outcome.why = "skipped", f"ESPER_BROKERS names the log: {drill.outside}"
        return outcome
    if (folder / "data").exists():
        raise InvalidInput(f"{folder} is of an earlier drill: move it away, or name another --folder")
    scene = Scene(folder, ear, scale, pids)
    ear.forget()
    try:
        _play(drill, scene, outcome)
    except EsperError as error:
        outcome.verdict, outcome.why = "failed", str(error)
    finally:
        scene.close()
        outcome.seen = tuple(each.rule for each in ear.heard(active=True))
        outcome.folder = str(folder) if outcome.verdict == "failed" else ""
    return outcome


def _play(drill: Drill, scene: Scene, outcome: Outcome) -> None:
    """Break, wait until people are told, mend, wait until that has cleared, and let the run end."""
    scene.begin(*drill.run)
    broken, contended = time.time(), contended_s()
    fired: Heard | None = None
    with drill.how(scene):
        if drill.alert:
            fired = scene.wait_for(drill.alert, active=True)
            outcome.told_s = fired.heard_at_s - broken
            outcome.contended_s = contended_s() - contended
    mended = time.time()
    code = scene.end()
    outcome.run = ENDS.get(code, f"exit code {code}")
    if fired is not None:
        outcome.cleared_s = max(0.0, scene.wait_for(drill.alert, active=False).heard_at_s - mended)
        outcome.late_s = scene.late_s(fired)
    if drill.after is not None:
        drill.after(scene)
    outcome.verdict = "passed"
    for wrong in _wrong(drill, scene, outcome, code):
        outcome.verdict, outcome.why = "failed", wrong


def _wrong(drill: Drill, scene: Scene, outcome: Outcome, code: int) -> Iterator[str]:
    """What did not come out."""
    times = [each.run for each in scene.ear.heard(drill.alert, active=True)] if drill.alert else []
    unexpected = [each.rule for each in scene.ear.heard(active=True)] if not drill.alert else []
    if unexpected:
        yield f"no alert was expected, and {', '.join(unexpected)} fired"
    if len(times) != len(set(times)):
        yield f"{drill.alert} fired {len(times)} times"
    if outcome.late_s is not None and outcome.late_s > LATE_S + outcome.contended_s:
        yield f"{drill.alert} came {outcome.late_s:.1f} s after its rule held, and {LATE_S:g} s are allowed"
    if code != drill.code:
        yield f"the run ended with exit code {code} and not {drill.code}"


def _cells(each: Outcome) -> tuple[str, ...]:
    seen = ", ".join(dict.fromkeys(each.seen)) or "none"
    colour = {"passed": GREEN, "failed": RED}.get(each.verdict, YELLOW)
    times = ("-" if value is None else f"{value:.1f} s" for value in (each.told_s, each.late_s, each.cleared_s))
    return (each.drill, each.expected or "none", seen, *times, each.run or "-", styled(each.verdict, colour))
