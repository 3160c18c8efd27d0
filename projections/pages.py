"""The pages that are made from code and from the small history: docs/schema.md and docs/questions.md.

`python -m projections.pages docs` writes them; a test says where one is no longer what the code gives.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from projections import questions, schema
from projections.history import History
from projections.schema import Relation

SHOWN_ROWS: Final = 12
"""As many rows of an answer as a page shows."""
SHOWN_TEXT: Final = 90

_ABOUT_SCHEMA: Final = """# Schema: what can be asked

Made by `python -m projections.pages docs` from the views themselves; `esper sql --schema` lists them and
`esper sql --schema epochs` shows one. Examples of questions, with their answers, are in [questions](questions.md).

Two things hold in every view: an event that was delivered twice is one row, and where there is a column `surviving`,
it is true where the row's fact counts and no rollback or resume has cut it since. Times are UTC. Accuracies are shares
from 0 to 1.
"""
_GROUPS: Final = {
    "views": ("Views", "What most questions need: stages and gates by name, ids as text."),
    "fold": (
        "What the facts come to",
        "Which facts count, the state of every run at a step, and facts that cannot be true. Stages are numbers.",
    ),
    "log": (
        "The log's own tables",
        "One table a type of event, with every field of its body; enums are numbers. All have these columns first:",
    ),
}
_ABOUT_QUESTIONS: Final = """# Twenty questions and their answers

Made by `python -m projections.pages docs`: the questions are the files of `projections/sql/questions/`, the answers
come from the small history that Esper carries. Try them: `esper sql --sample "..."`, with values in the places of
`$run`, `$step` and `$event`, or in Python

```python
from projections import open_sample, questions

with open_sample() as history:
    print(questions.ask(history, "{first}", run="{run}").fetchall())
```

What the views and columns mean is in [schema](schema.md). Long answers are cut after {rows} rows here.
"""


def schema_page(history: History) -> str:
    """The page of all views and tables."""
    parts = [_ABOUT_SCHEMA]
    shared = {column.name for column in schema.find(history.connection, "log.every").columns}
    for group, found in schema.relations(history.connection).items():
        title, about = _GROUPS[group]
        parts.append(f"## {title}\n\n{about}\n")
        if group == "log":
            parts.append(_columns(schema.find(history.connection, "log.every")))
        parts += [_section(relation, shared if group == "log" else frozenset()) for relation in found]
    return "\n".join(parts)


def _section(relation: Relation, without: Iterable[str]) -> str:
    own = Relation(relation.name, "", tuple(c for c in relation.columns if c.name not in set(without)))
    table = _columns(own) if own.columns else ""
    return f"### {relation.name}\n\n{relation.meaning}\n" + (f"\n{table}" if table else "")


def _columns(relation: Relation) -> str:
    rows = ((f"`{c.name}`", f"`{c.type}`", c.meaning, c.unit) for c in relation.columns)
    return _table(("Column", "Type", "Meaning", "Unit"), rows)


def questions_page(history: History) -> str:
    """The page of the twenty questions, each with its SQL and its answer on `history`."""
    parameters = example(history)
    head = _ABOUT_QUESTIONS.format(first="17_loss_curve", run=parameters["run"], rows=SHOWN_ROWS)
    told = ", ".join(f"`${name}` = `{_shown(value)}`" for name, value in parameters.items())
    parts = [head, f"Below, {told}.\n"]
    for number, name in enumerate(questions.names(), 1):
        query = questions.text(name).split("\n", 1)[1]
        answer = questions.ask(history, name, **parameters)
        headers = [column[0] for column in answer.description]
        rows = answer.fetchall()
        body = (
            _table(headers, ([_shown(value) for value in row] for row in rows[:SHOWN_ROWS])) if rows else "No rows.\n"
        )
        more = f"\n... and {len(rows) - SHOWN_ROWS} more rows.\n" if len(rows) > SHOWN_ROWS else ""
        parts.append(f"## {number}. {questions.in_words(name)}\n\n```sql\n{query};\n```\n\n{body}{more}")
    return "\n".join(parts)


def example(history: History) -> dict[str, Any]:
    """What the questions' parameters stand for on the small history: its grown run, a step, and its first command."""
    run = questions.grown_run(history)
    (command,) = history.execute(
        "select event_id from log.adaptation_command where run_id = ? order by log_offset limit 1", [run]
    ).fetchall()
    return {"run": run, "step": 300, "event": command[0]}


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"{line}\n" for line in _lines(headers, rows))


def _lines(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headers)} |"
    yield f"|{'---|' * len(headers)}"
    for row in rows:
        yield f"| {' | '.join(value.replace('|', chr(92) + '|') for value in row)} |"


def _shown(value: Any) -> str:
    """A value as a page shows it: figures to four digits, so that they are the same on every machine."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_shown(each) for each in value)}]"
    text = json.dumps(value) if isinstance(value, dict) else str(value)
    return text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 3]}..."


PAGES: Final[dict[str, Callable[[History], str]]] = {"schema.md": schema_page, "questions.md": questions_page}


def write(folder: Path) -> None:
    """Write all pages."""
    with questions.sample() as history:
        for name, page in PAGES.items():
            (folder / name).write_text(page(history), "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
