"""What all reading commands share: opening the history of a data folder, and finding the run that a person means.

They open the archive alone, so they work with nothing running and on any machine.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.cli.describe import headline
from esper.cli.events import Reading, event_json, types_of
from esper.cli.output import (
    CYAN,
    DIM,
    GREEN,
    RED,
    YELLOW,
    complain,
    meter,
    say,
    say_hanging,
    say_json,
    styled,
    table,
)
from esper.errors import InvalidInput
from esper.leyline.envelope import Event, body_name

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"


"""Crockford's base 32: no letters that are mistaken for digits."""


LENGTH: Final = 8


CONTROL_SUFFIX: Final = "-control"


def new_run_id() -> str:
    """An id for a new run: 40 random bits, so a million runs make a collision less likely than one in two."""
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def control_of(run_id: str) -> str:
    """The id of the control run of a run."""
    return run_id + CONTROL_SUFFIX


def resolve(word: str, run_ids: Sequence[str]) -> str:
    """The run that `word` means: an id, the beginning of just one, or `last`. `run_ids` begin with the latest.

    A beginning that fits a run and its control means the run. Raises InvalidInput where it means none or several.
    """
    if not run_ids:
        raise InvalidInput(f"there is no run {word!r}: nothing was run in this data folder yet; start with `esper run`")
    if word in run_ids:
        return word
    grown = [run_id for run_id in run_ids if not run_id.endswith(CONTROL_SUFFIX)]
    if word == "last":
        return (grown or run_ids)[0]
    matches = [run_id for run_id in run_ids if word and run_id.startswith(word)]
    matches = [run_id for run_id in matches if run_id in grown or run_id.removesuffix(CONTROL_SUFFIX) not in matches]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InvalidInput(f"{word!r} begins {len(matches)} runs ({', '.join(matches[:5])}); type more of it")
    near = get_close_matches(word, [*run_ids, "last"], n=1)
    hint = f"did you mean {near[0]}?" if near else "`esper runs` lists them"
    raise InvalidInput(f"there is no run {word!r} in this data folder; {hint}")


if TYPE_CHECKING:
    from projections.history import History


POLL_S: Final = 0.2


"""How often `--follow` looks for a newer manifest; the archive writes one within a second of every event."""


SILENT_AFTER: Final = timedelta(minutes=10)


"""Longer than most epochs take: a running run that has completed none for so long is shown as silent."""


BLOCK: Final = 2_000


"""Rows of an answer that are held, aligned and shown at once."""


logging.getLogger("projections").addHandler(logging.NullHandler())  # `history_of` complains of what it warns of


_TYPE_STYLES: Final = {
    "decision_made": CYAN,
    "adaptation_command": CYAN,
    "command_applied": GREEN,
    "command_rejected": RED,
    "seed_transitioned": YELLOW,
    "rolled_back": RED,
    "field_report": GREEN,
}


@contextmanager
def history_of(data_dir: Path, address: str | None = None) -> Iterator[History]:
    """The data folder's history, or that of the archive at `address`; raises InvalidInput where there is none."""
    archive = address if address is not None and "://" in address else Path(address or data_dir / "archive")
    if isinstance(archive, Path) and address is not None and not (archive / "manifest.json").is_file():
        raise InvalidInput(f"{archive} holds no archive: there is no manifest.json")
    if isinstance(archive, Path) and not archive.is_dir():
        if (data_dir / "log").is_dir():
            raise InvalidInput(f"{data_dir} has a log and no archive; `esper up` or the next run makes it from the log")
        raise InvalidInput(f"{data_dir} holds no history; run `esper run`, or name another folder with --data-dir")
    with _opened(archive) as history:
        # DuckDB draws one into stdout after two seconds; a notebook refuses the setting, so it is made here.
        history.connection.execute("SET enable_progress_bar = false")
        for damage in history.damage:
            complain(str(damage))
        for name, count in history.unknown.items():
            complain(f"{count} events of type {name} are of a newer Esper and are left out; a newer one reads them")
        yield history


def _opened(archive: Path | str) -> History:
    from projections import open_history  # noqa: PLC0415 - only needed here

    if isinstance(archive, Path):
        return open_history(archive)
    with meter("copying what is new of it") as tell:
        return open_history(archive, tell)


def run_ids(history: History) -> list[str]:
    """The ids of all runs, the latest first."""
    query = "select run_id from log.run_started group by run_id order by min(recorded_at_ns) desc"
    return [run_id for (run_id,) in history.execute(query).fetchall()]


def runs_command(data_dir: Path, *, as_json: bool) -> None:
    """All runs, the latest first."""
    with history_of(data_dir) as history:
        columns, rows = _query(history, "select * from runs order by started_at desc")
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    if as_json:
        say_json(found)
        return
    if not found:
        say("nothing was run in this data folder yet; start with `esper run`")
        return
    over = [run for run in found if run["control_of"] and run["status"] == "completed"]
    controls = {run["control_of"]: run["test_accuracy"] for run in over}
    known = {run["run_id"] for run in found}
    shown = [run for run in found if run["control_of"] not in known]
    say(table(_RUN_HEADERS, [_run_row(run, controls.get(run["run_id"])) for run in shown], right=(4, 5, 6, 7)))


_RUN_HEADERS: Final = ("run", "task", "policy", "status", "epochs", "accuracy", "control", "params", "kept", "started")


"""A control run is a column of the run that it belongs to; `kept` is how many germinated seeds fossilised."""


def _run_row(run: dict[str, Any], control_accuracy: float | None) -> tuple[Any, ...]:
    germinated = run["seeds_germinated"]
    return (
        run["run_id"],
        run["task"],
        run["policy"],
        _status(run, datetime.now(UTC)),
        f"{run['epochs_done']}/{run['epochs_planned']}",
        _accuracy(run["test_accuracy"]),
        _accuracy(control_accuracy),
        f"{run['params_final'] or run['params_host']:,}",
        "-" if germinated is None else f"{run['seeds_fossilized']} of {germinated}",
        f"{run['started_at']:%Y-%m-%d %H:%M}",
    )


def _status(run: dict[str, Any], now: datetime) -> str:
    """How a run is; one whose trainer was killed says nothing any more, and nobody else can say that it is over."""
    last = run["last_at"].replace(tzinfo=UTC)
    silent = run["status"] == "running" and now - last > SILENT_AFTER
    return f"silent since {last:%H:%M}" if silent else str(run["status"])


def _accuracy(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def events_command(data_dir: Path, word: str, types: list[str], *, follow: bool, as_json: bool) -> None:
    """A run's events in their order, and with `follow` those that come, until the run has finished."""
    wanted = types_of(types)
    with history_of(data_dir) as history:
        run_id = resolve(word, run_ids(history))
        reading = Reading(history, run_id, wanted)
        for event in _events(reading, follow=follow):
            _say_event(event, as_json=as_json)


def _events(reading: Reading, *, follow: bool) -> Iterator[Event]:
    yield from reading.new()
    while follow and not reading.finished():
        time.sleep(POLL_S)
        yield from reading.new()
    if follow:
        yield from reading.new()


def _say_event(event: Event, *, as_json: bool) -> None:
    if as_json:
        say_json(event_json(event))
        return
    name = body_name(event)
    place = styled(f"epoch {event.epoch:>3} step {event.global_step:>6}", DIM)
    say_hanging(f"{_clock(event)}  {place}  {styled_name(name)}{' ' * max(1, 26 - len(name))}", headline(event))


def _query(history: History, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    columns, blocks = blocks_of(history, query)
    return columns, [row for block in blocks for row in block]


def blocks_of(history: History, query: str) -> tuple[list[str], Iterator[list[tuple[Any, ...]]]]:
    """The answer's columns, and its rows in blocks: an answer may be larger than the memory."""
    with wrong_query():
        answer = history.execute(query)

    def blocks() -> Iterator[list[tuple[Any, ...]]]:
        with wrong_query():
            while rows := answer.fetchmany(BLOCK):
                yield rows

    return [column[0] for column in answer.description or ()], blocks()


@contextmanager
def wrong_query() -> Iterator[None]:
    """DuckDB's errors as InvalidInput, in its own words."""
    import duckdb  # noqa: PLC0415

    try:
        yield
    except duckdb.Error as error:
        first, *_ = str(error).split("\n\n")
        raise InvalidInput(f"the query is wrong: {first}") from None


def _clock(event: Event) -> str:
    return f"{datetime.fromtimestamp(event.recorded_at_ns / 1e9, UTC):%H:%M:%S.%f}"[:-3]


def styled_name(name: str) -> str:
    """An event's type in its colour."""
    return styled(name, _TYPE_STYLES[name]) if name in _TYPE_STYLES else name
