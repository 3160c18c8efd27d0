"""The catalogue's table without its modules: the facts of all templates, read from `table.json`, so without torch.

The templates themselves hold the facts; `python -m esper.karn.table` writes them down anew after a change of one, and a
test holds both equal.
"""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import asdict, fields
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from esper.errors import InvalidInput
from esper.karn.facts import Facts, Setting

FILE: Final = Path(__file__).with_name("table.json")


@cache
def facts() -> dict[str, Facts]:
    """Every template's facts by its id, in order of ids."""
    rows = json.loads(resources.files("esper.karn").joinpath(FILE.name).read_text("utf-8"))
    return {row["blueprint_id"]: _facts(row) for row in rows}


def find_facts(word: str) -> Facts:
    """The facts of the template of that id or name, however it is capitalised.

    Raises InvalidInput where there is none, with those that come near.
    """
    by_word = {key: each for each in facts().values() for key in (each.blueprint_id.lower(), each.name)}
    found = by_word.get(word.strip().lower())
    if found is not None:
        return found
    near = dict.fromkeys(by_word[key] for key in get_close_matches(word.lower(), by_word, n=3))
    named = " or ".join(f"{each.blueprint_id} {each.name}" for each in near)
    hint = f"did you mean {named}?" if near else f"the catalogue has {min(facts())} to {max(facts())}"
    raise InvalidInput(f"there is no blueprint {word!r}; {hint}")


def formula(blueprint: Facts) -> str:
    """What the docstring of a template's file says of it: formula, shapes and source."""
    name = f"{blueprint.blueprint_id.lower()}_{blueprint.name}.py"
    source = resources.files("esper.karn").joinpath("templates", name).read_text("utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def written(blueprints: dict[str, Any]) -> str:
    """The text of `table.json` for these blueprints."""
    names = [field.name for field in fields(Facts)]
    rows = [{name: kept[name] for name in names} for kept in map(asdict, blueprints.values())]
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def _facts(row: dict[str, Any]) -> Facts:
    settings = tuple(Setting(**setting) for setting in row["settings"])
    return Facts(**{**row, "kinds": tuple(row["kinds"]), "tags": tuple(row["tags"]), "settings": settings})


def main() -> None:
    """Write the table of today's templates."""
    from esper.karn.catalogue import CATALOGUE  # noqa: PLC0415 - the one thing here that needs torch

    FILE.write_text(written(dict(CATALOGUE)), encoding="utf-8")
    sys.stdout.write(f"{len(CATALOGUE)} templates written to {FILE}\n")


if __name__ == "__main__":
    main()
