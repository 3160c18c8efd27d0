"""`esper sql`: one query from the command line or a pipe, the schema, or a shell where a person sits at a terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.history import history_of
from esper.cli.output import DIM, say, say_json, say_json_rows, say_table, styled, table
from esper.errors import InvalidInput

if TYPE_CHECKING:
    from projections.history import History
    from projections.schema import Relation


def sql_command(
    data_dir: Path,
    query: str | None,
    *,
    archive: str | None,
    sample: bool,
    show_schema: bool,
    as_json: bool,
    beside: Sequence[str] = (),
) -> None:
    """Answer a person's query, show the schema, or begin a shell; `beside` are places of other tools to ask, too."""
    with history_of(_sample_folder() if sample else data_dir, None if sample else archive) as history:
        if beside:
            _put_beside(history, beside)
        if show_schema:
            say_schema(history, query, as_json=as_json)
        elif query is None and sys.stdin.isatty() and sys.stdout.isatty() and not as_json:
            from esper.cli.shell import shell  # noqa: PLC0415 - prompt_toolkit is for people at a terminal

            shell(history)
        else:
            asked = sys.stdin.read() if query is None else query
            if asked.lstrip().startswith("\\d"):
                say_schema(history, asked.strip()[2:].strip(" ;+") or None, as_json=as_json)
                return
            with _ended_by_signals():
                _answer(history, asked, as_json=as_json)


def _put_beside(history: History, places: Sequence[str]) -> None:
    from projections.interchange import foreign, mlflow, tensorboard  # noqa: PLC0415 - few queries are about them

    found = []
    for place in places:
        tool, _, where = place.partition(":")
        if tool not in {"mlflow", "tensorboard"} or not where:
            raise InvalidInput(f"--beside {place!r} is no place of another tool: tensorboard:FOLDER or mlflow:PLACE")
        found.append(mlflow.read(where) if tool == "mlflow" else tensorboard.read(Path(where)))
    foreign.register(history, found)


def _answer(history: History, query: str, *, as_json: bool) -> None:
    """The answer's rows, shown as they come."""
    from projections.ad_hoc import blocks_of, check_reads  # noqa: PLC0415 - DuckDB, and only where it is needed

    check_reads(query)
    columns, blocks = blocks_of(history, query)
    if as_json:
        say_json_rows(dict(zip(columns, row, strict=True)) for block in blocks for row in block)
    else:
        say_table(columns, blocks)


def say_schema(history: History, name: str | None, *, all_of_them: bool = True, as_json: bool = False) -> None:
    """All views and tables in a line each, or one with its columns; raises InvalidInput for a name that is none.

    Those that people ask come first; without `all_of_them` they are all that is shown.
    """
    from projections import ad_hoc  # noqa: PLC0415
    from projections.views import VIEWS  # noqa: PLC0415

    found = ad_hoc.relations(history) if name is None else [ad_hoc.relation(history, name)]
    if as_json:
        say_json([_as_json(relation) for relation in found])
    elif name is None:
        shown = found if all_of_them else [each for each in found if each.name in VIEWS]
        say(table(("view", "columns", "what a row is"), [(r.name, len(r.columns), _first(r.meaning)) for r in shown]))
        if len(shown) < len(found):
            left = len(found) - len(shown)
            say(styled(f"\\d+ shows {left} more that these are made of, the log's tables among them", DIM))
    else:
        (relation,) = found
        say(f"{relation.name}: {relation.meaning}\n")
        rows = [(column.name, column.type, column.unit, column.meaning) for column in relation.columns]
        say(table(("column", "type", "unit", "meaning"), rows))


def _first(meaning: str) -> str:
    """The first sentence."""
    return meaning.partition(". ")[0].removesuffix(".")


def _as_json(relation: Relation) -> dict[str, object]:
    from dataclasses import asdict  # noqa: PLC0415

    return asdict(relation)


def _sample_folder() -> Path:
    from projections import questions  # noqa: PLC0415

    return questions.folder()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C ends the process as it stands: DuckDB may not look for it before a long query is over.

    Nothing is lost by that, because nothing is written.
    """
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
