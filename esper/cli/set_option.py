"""`esper run --set help`: every setting of a run with its default and what it may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from esper.cli.output import say, say_json, table
from esper.tolaria.config import RunConfig
from esper.tolaria.settings_text import SEEDS, names, word


def show_settings(*, as_json: bool) -> None:
    """Every setting with its default and what it may be."""
    rows = [(name, *_about(name)) for name in names()]
    if as_json:
        say_json([{"setting": name, "default": default, "allowed": allowed} for name, default, allowed in rows])
        return
    say(
        table(
            ("setting", "default", "allowed"),
            [(name, "-" if default is None else word(default), allowed) for name, default, allowed in rows],
        )
    )


def _about(name: str) -> tuple[Any, str]:
    config = RunConfig()
    owner, field = (config.seeds, name.removeprefix(SEEDS)) if name.startswith(SEEDS) else (config, name)
    hint = get_type_hints(type(owner), include_extras=True)[field]
    return getattr(owner, field), " or ".join(dict.fromkeys(_allowed(hint)))


def _allowed(hint: Any, limits: str = "") -> Iterator[str]:
    """What a hint lets through, in words."""
    words = {int: "a whole number", float: "a number", bool: "true, false", NoneType: "none", str: "a text"}
    if get_origin(hint) is Literal:
        yield ", ".join(str(each) for each in get_args(hint))
    elif get_origin(hint) is tuple:
        yield f"some of {', '.join(_allowed(get_args(hint)[0]))}"
    elif hasattr(hint, "__metadata__"):
        yield from _allowed(get_args(hint)[0], " and ".join(_limits(hint.__metadata__)))
    elif get_args(hint):
        for each in get_args(hint):
            yield from _allowed(each)
    else:
        yield f"{words.get(hint, str(hint))} {limits}".strip()


def _limits(metadata: Sequence[Any]) -> Iterator[str]:
    """The limits that pydantic and annotated_types write on a type."""
    said = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}
    for each in metadata:
        for part in (each, *getattr(each, "metadata", ())):
            for name, sign in said.items():
                if isinstance(limit := getattr(part, name, None), int | float):
                    yield f"{sign} {limit:g}"
