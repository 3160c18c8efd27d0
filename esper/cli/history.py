"""The data folder, its history and the runs in it: `esper runs`, and what every command opens."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.cli.output import complain, meter, say, say_json, table
from esper.errors import InvalidInput, LogUnavailable
from esper.leyline.envelope import body_of
from esper.leyline.json_text import configuration
from esper.leyline.names import checked, meant
from esper.metric import Figure, figure_of_row
from esper.record.work import FAILED, QUEUED, RUNNING, WITHDRAWN, Asked
from esper.weatherlight.alive import lives
from projections.manifest import Place, covered
from projections.run_queries import all_runs, all_work, claims_of

LEAST_FREE_BYTES: Final = 256 * 1024 * 1024


"""A small run writes about 20 MB; with less than this left a disk is as good as full."""


FULL_BYTES: Final = 2**20
SAY_S: Final = 6.0
UNABLE_S: Final = 1.0
"""So long an archiver has to say that it cannot write before nobody waits for it any more."""


"""Below this nothing that Esper writes can be counted on to fit."""


TICK_S: Final = 0.02
JUDGED_S: Final = 5.0
"""So long an archive is watched before it is judged whether it comes to the end in time."""
HOPELESS: Final = 3.0
"""It does not where it would take so many times as long as is left, at the pace so far."""


def check_writable(data_dir: Path) -> None:
    """Make the data folder; raises InvalidInput where it cannot be written to or its disk is full."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"data folder {data_dir} cannot be made: {error.strerror}; take another --data-dir"
        ) from None
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise InvalidInput(f"data folder {data_dir} cannot be written to; take another --data-dir")
    free = shutil.disk_usage(data_dir).free
    if free < LEAST_FREE_BYTES:
        raise InvalidInput(
            f"the disk of data folder {data_dir} is full: {free // 2**20} MB are free and "
            f"{LEAST_FREE_BYTES // 2**20} MB are needed; make room or take another --data-dir"
        )


def check_room(data_dir: Path, folder: str = "") -> None:
    """Raises LogUnavailable where the disk has filled up, for whoever waits for something to be written.

    `folder` is one inside, which may be a link to another disk.
    """
    if shutil.disk_usage(data_dir / folder).free < FULL_BYTES:
        raise LogUnavailable(
            f"the disk of data folder {data_dir} is full, so the archive lacks the end still; make room, and the next "
            "run or `esper up` archives what the log has"
        )


class ArchiveBehind(LogUnavailable):
    """The archive has come on, and not in time: it lacks `to_go` records of the log still."""

    def __init__(self, message: str, to_go: int) -> None:
        super().__init__(message)
        self.to_go = to_go


class Waiting:
    """Says every few seconds how much the archive lacks, to whoever waits for it; nothing of a short wait."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said_at = time.monotonic()

    def tell(self, to_go: int) -> None:
        """The archive lacks so many records."""
        if time.monotonic() - self._said_at >= SAY_S:
            self._said_at = time.monotonic()
            self._say(f"the archive takes in what lies on the log: {to_go:,} records to go")


def wait_for_archive(
    data_dir: Path,
    ends: Mapping[Place, int],
    timeout_s: float,
    meanwhile: Callable[[int], None],
    unable: Callable[[], str] = lambda: "",
    *,
    moving_s: float | None = None,
) -> None:
    """Return once the archive covers `ends`, the offsets after the last records.

    `meanwhile` is called all along with how many records it lacks. An archive that comes on has `moving_s`: a log that
    others wrote to for long is archived by every data folder anew. Raises LogUnavailable where it does not come on for
    `timeout_s`, ArchiveBehind where it comes on and is too slow; LogUnavailable where the disk is full, or where
    `unable` says for a while why the archive cannot be written.
    """
    archive = data_dir / "archive"
    began = moved_at = able_at = time.monotonic()
    first = before = -1
    while True:
        have = covered(archive)
        behind = {place: end - have.get(place, 0) for place, end in ends.items() if have.get(place, 0) < end}
        if not behind:
            return
        to_go, now = sum(behind.values()), time.monotonic()
        first = to_go if first < 0 else first
        if to_go != before:
            before, moved_at = to_go, now
        check_room(data_dir)
        until = min(moved_at + timeout_s, began + (timeout_s if moving_s is None else moving_s))
        if now > until or (moving_s is None and _hopeless(first, to_go, now - began, until - now)):
            lacking = f"the archive lacks the end of {', '.join(sorted({topic for topic, _ in behind}))} still"
            rest = f"the log has it and the next run archives it (see {data_dir / 'run' / 'archiver.log'})"
            if to_go < first:
                raise ArchiveBehind(f"{lacking}, {to_go:,} records; {rest}, or `esper up`, without end", to_go)
            raise LogUnavailable(f"{lacking}; {rest}")
        meanwhile(to_go)
        why = unable()
        if not why:
            able_at = time.monotonic()
        elif time.monotonic() - able_at > UNABLE_S:
            raise LogUnavailable(f"{why}; the log has what is missing, and the next run or `esper up` archives it")
        time.sleep(TICK_S)


def _hopeless(first: int, to_go: int, watched_s: float, left_s: float) -> bool:
    """Whether an archive that went from `first` records to `to_go` in so long cannot come to the end in time."""
    return watched_s > JUDGED_S and to_go < first and to_go * watched_s > HOPELESS * left_s * (first - to_go)


if TYPE_CHECKING:
    from projections.history import History


ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"


"""Crockford's base 32: no letters that are mistaken for digits."""


LENGTH: Final = 8


CONTROL_SUFFIX: Final = "-control"
STATIC_SUFFIX: Final = "-static"


def new_run_id() -> str:
    """An id for a new run: 40 random bits, so a million runs make a collision less likely than one in two."""
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def control_of(run_id: str) -> str:
    """The id of the control run of a run."""
    return run_id + CONTROL_SUFFIX


def static_of(run_id: str) -> str:
    """The id of the static run of a run: the structure that grew in it, trained from its first step."""
    return run_id + STATIC_SUFFIX


def grown_run(run_id: str) -> str:
    """The id of the run that a control or static run belongs to; that of any other run itself."""
    return run_id.removesuffix(CONTROL_SUFFIX).removesuffix(STATIC_SUFFIX)


def find_run(history: History, word: str) -> str:
    """The id of the run that `word` means in this history, as `resolve` says."""
    from projections.run_queries import run_ids  # noqa: PLC0415 - only where there is a history

    return resolve(word, run_ids(history))


def resolve(word: str, run_ids: Sequence[str]) -> str:
    """The run that `word` means: an id, the beginning of just one, or `last`. `run_ids` begin with the latest.

    A beginning that fits a run and its control or static run means the run. Raises InvalidInput where it means none or
    several, and where a stranger's run has an id that would be a path or a command elsewhere: files and advice are
    named by it.
    """
    return checked(_meant(word, run_ids), "the run id")


def _meant(word: str, run_ids: Sequence[str]) -> str:
    if not run_ids:
        raise InvalidInput(f"there is no run {word!r}: nothing was run in this data folder yet; start with `esper run`")
    if word in run_ids:
        return word
    grown = [run_id for run_id in run_ids if grown_run(run_id) == run_id]
    if word == "last":
        return (grown or run_ids)[0]
    matches = [run_id for run_id in run_ids if word and run_id.startswith(word)]
    matches = [run_id for run_id in matches if run_id in grown or grown_run(run_id) not in matches]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InvalidInput(f"{word!r} begins {len(matches)} runs ({', '.join(matches[:5])}); type more of it")
    hint = meant(word, [*run_ids, "last"], "`esper runs` lists them")
    raise InvalidInput(f"there is no run {word!r} in this data folder; {hint}")


logging.getLogger("projections").addHandler(logging.NullHandler())  # `history_of` complains of what it warns of


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
    from projections.ad_hoc import confine  # noqa: PLC0415 - DuckDB, and only where there is a history

    with _opened(archive) as history:
        confine(history)
        for damage in history.damage:
            complain(str(damage))
        for unreadable in history.manifest.unreadable:
            complain(f"the log was damaged before it was archived: {unreadable}")
        for name, count in history.unknown.items():
            complain(f"{count} events of type {name} are of a newer Esper and are left out; a newer one reads them")
        with history.naming_damage():
            yield history


def _opened(archive: Path | str) -> History:
    from projections import open_history  # noqa: PLC0415 - only needed here

    if isinstance(archive, Path):
        return open_history(archive)
    with meter("copying what is new of it") as tell:
        return open_history(archive, tell)


SILENT_AFTER: Final = timedelta(minutes=10)


"""Longer than most epochs take: of a running run that has completed none for so long it is said when it was heard."""


TROUBLED: Final = ("failed", "stopped", "interrupted")
LONGEST_REASON: Final = 160
"""Characters of a reason that stand in the list; `esper runs --json` has it whole."""
_RUN_HEADERS: Final = (
    *("run", "task", "policy", "status", "epochs", "metric", "test", "control", "static", "params", "kept", "began"),
)


"""A control or static run is a column of the run that it belongs to; `kept` is how many germinated seeds fossilised."""


def runs_command(data_dir: Path, *, as_json: bool) -> None:
    """All runs, the latest first."""
    with history_of(data_dir) as history:
        from projections.cross_checks import unverified  # noqa: PLC0415 - DuckDB, and only where there is a history

        waiting, found = runs_now(history)
        absent = [(key, runs) for key, _, runs in unverified(history) if runs]
    for key, runs in absent:
        complain(
            f"{len(runs)} runs are left out, because no key here verifies what was signed by key {key}; "
            "`esper archive verify` says what to do"
        )
    if as_json:
        say_json([*({"run_id": row["run_id"], "status": row["status"], "work": row} for row in waiting), *found])
        return
    if not found and not waiting:
        say("nothing was run in this data folder yet; start with `esper run`")
        return
    beside = {
        (run[role], role): figure_of_row(run)
        for run in found
        for role in ("control_of", "static_of")
        if run[role] and run["status"] == "completed"
    }
    known = {run["run_id"] for run in found}
    shown = [run for run in found if run["control_of"] not in known and run["static_of"] not in known]
    rows = [
        _run_row(run, *(beside.get((run["run_id"], role)) for role in ("control_of", "static_of"))) for run in shown
    ]
    say(table(_RUN_HEADERS, [*map(_waiting_row, waiting), *rows], right=(4, 6, 7, 8, 9)))


def runs_now(history: History) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What was asked for and has not begun, and the rows of `runs`, the latest first.

    Each row says besides whether its trainer lives, where that can be told (a run whose trainer is gone has died), and
    what the fleet has of it.
    """
    found = all_runs(history)
    running = [run["run_id"] for run in found if run["status"] == "running"]
    claims = claims_of(history, running) if running else {}
    asked = {run.run_id: run for run in all_work(history)}
    for run in found:
        claim = claims.get(run["run_id"])
        run["trainer_lives"] = None if claim is None else lives(body_of(claim).machine.process)
        if run["trainer_lives"] is False:
            run["status"] = "died"  # it says nothing any more, so the history has it running for ever
        submitted = asked.pop(run["run_id"], None)
        run["work"] = None if submitted is None else work_row(submitted)
    return [work_row(run) for run in reversed(asked.values())], found


def work_row(run: Asked) -> dict[str, Any]:
    """A run that was submitted, as JSON has it."""
    body = run.body
    config = configuration(body.config_json) if body.config_json else {}
    return {
        "run_id": run.run_id,
        "status": run.status,
        "host": run.host or None,
        "attempts": run.attempt,
        "reason": run.reason or None,
        "task": config.get("task"),
        "policy": config.get("policy"),
        "parent_run_id": body.parent_run_id or None,
        "fork_step": body.step if body.parent_run_id else None,
        "fork_change": body.change or None,
        "batch": body.batch,
        "place": body.place,
        "priority": body.priority,
        "labels": dict(body.labels),
        "submitted_by": body.submitted_by,
        "requested_at": datetime.fromtimestamp(run.requested_at_ns / 1e9, UTC),
        "told": told_of(run),
    }


def told_of(run: Asked) -> str:
    """How the fleet has a run: queued, running and where, or what came of it."""
    if run.status == RUNNING:
        return f"running on {run.host}" + (f", attempt {run.attempt}" if run.attempt > 1 else "")
    why = run.reason[:LONGEST_REASON]
    if run.status == QUEUED and run.attempt:
        return f"queued again: {why}" if why else "queued again"
    return f"{run.status}: {why}" if why and run.status in {FAILED, WITHDRAWN} else run.status


def _waiting_row(work: dict[str, Any]) -> tuple[Any, ...]:
    """A run that was submitted and has not begun."""
    task = str(work["task"] or "-")
    if work["parent_run_id"]:
        task = f"fork of {work['parent_run_id']} at step {work['fork_step']}: {work['fork_change']}"
    asked_at = _began(work["requested_at"], datetime.now(UTC))
    return work["run_id"], task, work["policy"] or "-", work["told"], *["-"] * 7, asked_at


def _run_row(run: dict[str, Any], control: Figure | None, static: Figure | None) -> tuple[Any, ...]:
    germinated, told = run["seeds_germinated"], figure_of_row(run) or figure_of_row(run, "probe")
    beside = [None if told is None or each is None or not each.is_like(told) else each for each in (control, static)]
    return (
        run["run_id"],
        _task(run),
        run["policy"],
        _status(run, datetime.now(UTC)),
        f"{run['epochs_done']}/{run['epochs_planned']}",
        "-" if told is None else told.label,
        *("-" if each is None else each.bare for each in (figure_of_row(run), *beside)),
        f"{run['params_final'] or run['params_host']:,}",
        "-" if germinated is None else f"{run['seeds_fossilized']}/{germinated}",
        _began(run["started_at"], datetime.now(UTC)),
    )


def _began(at: datetime, now: datetime) -> str:
    """When a run began: of one of an earlier year, the year in the place of the time."""
    return f"{at:%d %b %H:%M}" if at.year == now.year else f"{at:%d %b %Y}"


def _task(run: dict[str, Any]) -> str:
    """What a run is trained on, with the file of a person's own; of a fork also what it left, where, and why."""
    task = str(run["task"])
    if run["task_file"]:
        task += f" ({run['task_file']})"
    if run["parent_run_id"]:
        task += f", fork of {run['parent_run_id']} at step {run['fork_step']}: {run['fork_change'] or 'nothing'}"
    return task


def _status(run: dict[str, Any], now: datetime) -> str:
    """How a run is, and why where it failed; of one that died or whose process is elsewhere when it was last heard.

    Of one that was submitted, its worker has the word until it is over. Whether its trainer lives can be looked up on
    the machine where it runs, or ran. Of another machine's run it can only be said when it was heard last.
    """
    ago, work = now - run["last_at"].replace(tzinfo=UTC), run["work"]
    if work is not None and run["status"] not in {"completed", "failed", "stopped"}:
        return str(work["told"])
    if run["status"] == "died":
        return f"died, last heard {_ago(ago)} ago"
    if run["status"] == "running" and run["paused"]:
        return "paused"
    if run["status"] == "running":
        silent = not run["trainer_lives"] and ago > SILENT_AFTER
        return f"last heard {_ago(ago)} ago" if silent else "running"
    why = str(run["reason"] or "") if run["status"] in TROUBLED else ""
    return f"{run['status']}: {why[:LONGEST_REASON]}" if why else str(run["status"])


def _ago(since: timedelta) -> str:
    """A time that has passed, in its largest unit: `40 s`, `5 min`, `3 h`, `12 days`."""
    seconds = max(0, round(since.total_seconds()))
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
