"""What all reading commands share: opening the history of a data folder, and finding the run that a person means.

They open the archive alone, so they work with nothing running and on any machine.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper.cli.output import complain, meter
from esper.errors import InvalidInput

if TYPE_CHECKING:
    from projections.history import History


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


def find_run(history: History, word: str) -> str:
    """The id of the run that `word` means in this history, as `resolve` says."""
    from projections.run_queries import run_ids  # noqa: PLC0415 - only where there is a history

    return resolve(word, run_ids(history))


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
    from projections.ad_hoc import draw_no_progress  # noqa: PLC0415 - DuckDB, and only where there is a history

    with _opened(archive) as history:
        draw_no_progress(history)
        for damage in history.damage:
            complain(str(damage))
        for unreadable in history.manifest.unreadable:
            complain(f"the log was damaged before it was archived: {unreadable}")
        for name, count in history.unknown.items():
            complain(f"{count} events of type {name} are of a newer Esper and are left out; a newer one reads them")
        yield history


def _opened(archive: Path | str) -> History:
    from projections import open_history  # noqa: PLC0415 - only needed here

    if isinstance(archive, Path):
        return open_history(archive)
    with meter("copying what is new of it") as tell:
        return open_history(archive, tell)
