"""`esper projections`: it opens the files read-only, and asks the worker about those that are being kept."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from esper.cli.history import history_of
from esper.cli.output import DIM, say, say_json, styled, table
from projections.manifest import covered
from projections.projection import Projection
from projections.registry import PROJECTIONS, behind, file_of, named, rebuild, seen

ASK_S: Final = 2.0
_STATES: Final = {
    "absent": "not made yet",
    "ready": "ready",
    "kept": "kept by a running process",
    "older": "of an older Esper; its next owner brings it up to date",
    "newer": "of a newer Esper; use that one, or rebuild it",
    "unreadable": "damaged; its next owner makes it anew",
}
_LAG: Final = re.compile(r'^esper_projection_lag_records\{projection="(\w+)"\} (\S+)$', re.MULTILINE)


def list_command(data_dir: Path, *, as_json: bool) -> None:
    """All projections."""
    found = [_described(projection, data_dir) for projection in PROJECTIONS.values()]
    if as_json:
        say_json(found)
        return
    rows = [
        (each["name"], each["owner"], _STATES[each["state"]], _megabytes(each["bytes"]), each["what"]) for each in found
    ]
    say(table(("projection", "kept by", "state", "size", "what"), rows, right=(3,)))
    for each in found:
        if each["state"] == "absent":
            say(styled(f"`esper projections rebuild {each['name']}` makes {each['name']} from the archive", DIM))


def _described(projection: Projection, data_dir: Path) -> dict[str, Any]:
    file = seen(projection, data_dir)
    return {
        "name": projection.name,
        "what": projection.what,
        "owner": projection.owner,
        "topics": [topic.name for topic in projection.sources],
        "state": file.state,
        "bytes": file.bytes,
        "migrations": [script.name for script in projection.migrations()],
        "applied": list(file.migrations),
        "views": list(projection.views),
        "file": str(file_of(data_dir, projection)),
    }


def rebuild_command(data_dir: Path, name: str, *, as_json: bool) -> None:
    """One projection, or all, made anew from the archive."""
    wanted = list(PROJECTIONS.values()) if name == "all" else [named(name)]
    made = []
    with history_of(data_dir) as history:
        for projection in wanted:
            began = time.monotonic()
            with _shown(projection.name) as advance:
                taken = rebuild(projection, data_dir, history, advance)
            told = {
                "projection": projection.name,
                "events": taken.folded,
                "repeated": taken.repeated,
                "refused": dict(taken.refused),
                "seconds": round(time.monotonic() - began, 3),
                "file": str(file_of(data_dir, projection)),
            }
            made.append(told)
            if not as_json:
                say(f"{projection.name}: {taken.folded:,} events in {told['seconds']:.1f} s, {told['file']}")
    if as_json:
        say_json(made if name == "all" else made[0])


@contextmanager
def _shown(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, on stderr so that stdout is for the result; nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"rebuilding {name}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def lag_command(data_dir: Path, *, as_json: bool) -> None:
    """How far each projection is behind."""
    ends, live = covered(data_dir / "archive"), _live(data_dir)
    found = []
    for projection in PROJECTIONS.values():
        file = seen(projection, data_dir)
        kept = file.state == "kept"
        topics = behind(projection, file.next_offsets, ends) if not kept else {}
        records = live.get(projection.name) if kept else sum(topics.values())
        found.append({"projection": projection.name, "state": file.state, "behind": records, "topics": topics})
    if as_json:
        say_json(found)
        return
    rows = [(each["projection"], _behind(each["behind"]), _STATES[str(each["state"])]) for each in found]
    say(table(("projection", "behind", "state"), rows, right=(1,)))


def _behind(records: Any) -> str:
    return "not known" if records is None else f"{records:,}"


def _live(data_dir: Path) -> Mapping[str, int]:
    """What the worker says of the projections that it keeps: nothing where none runs or it does not answer."""
    try:
        ((target,),) = (each["targets"] for each in json.loads((data_dir / "run" / "worker.json").read_bytes()))
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=ASK_S) as answer:
            text = answer.read().decode()
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {name: int(float(value)) for name, value in _LAG.findall(text)}


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB" if size else "-"
