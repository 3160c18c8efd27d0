"""The data folder, its history and the runs in it: `esper runs`, and what every command opens."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.cli.output import complain, meter
from esper.errors import InvalidInput, LogUnavailable
from esper.leyline.names import checked, meant
from projections.manifest import Place, covered

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
