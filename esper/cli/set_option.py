"""`esper run --set NAME=VALUE`: every setting of a run by its name, typed and checked before anything starts.

Free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from functools import cache
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from esper.cli.output import say, say_json, table
from esper.errors import InvalidInput
from esper.kasmina.settings import SeedSettings
from esper.leyline.names import meant
from esper.tolaria.config import RunConfig

SEEDS: Final = "seeds."
_OPTIONS: Final = {
    "task": "--task",
    "seed": "--seed",
    "policy": "--policy",
    "device": "--device",
    "pool": "--pool",
    "drill": "--drill",
}
"""Settings that their own option gives, because more hangs on them."""

_OF_THE_PROGRAM: Final = frozenset({"control_of", "static_of", "structure", "dossier"})
"""What a command fills in: no setting of a person's."""

_SWITCHES: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def with_settings(config: RunConfig, pairs: Sequence[str]) -> RunConfig:
    """The configuration with each `NAME=VALUE`; raises InvalidInput that names the setting, the value, and the way out.

    Settings of a seed's life are `seeds.NAME`. `none` is no value, where a setting may have none.
    """
    own: dict[str, Any] = {}
    of_seeds: dict[str, Any] = {}
    for name, value in map(_read, pairs):
        if name in own or name.removeprefix(SEEDS) in of_seeds:
            raise InvalidInput(f"--set gives {name} twice; leave one of them out")
        if name.startswith(SEEDS):
            of_seeds[name.removeprefix(SEEDS)] = value
        else:
            own[name] = value
    if of_seeds:
        if "lifecycle" in of_seeds and "blend_epochs" not in of_seeds:
            of_seeds["blend_epochs"] = None  # the profile decides
        own["seeds"] = replace(config.seeds, **of_seeds)
    return replace(config, **own) if own else config


@cache
def names() -> tuple[str, ...]:
    """Every setting that `--set` takes."""
    left_out = {"seeds", *_OPTIONS, *_OF_THE_PROGRAM}
    return (
        *(each.name for each in fields(RunConfig) if each.name not in left_out),
        *(f"{SEEDS}{each.name}" for each in fields(SeedSettings)),
    )


def _read(pair: str) -> tuple[str, Any]:
    name, equals, text = (part.strip() for part in pair.partition("="))
    if not equals:
        raise InvalidInput(f"--set {pair!r} is no NAME=VALUE, such as seeds.blend_epochs=2")
    if name in _OPTIONS:
        raise InvalidInput(f"{name} has an option of its own: {_OPTIONS[name]} {text}")
    if name in _OF_THE_PROGRAM:
        raise InvalidInput(f"{name} is not for --set: Esper fills it in")
    if name not in names():
        raise InvalidInput(f"there is no setting {name!r}; {_closest(name)}")
    owner, field = (SeedSettings, name.removeprefix(SEEDS)) if name.startswith(SEEDS) else (RunConfig, name)
    return name, _typed(name, text, _hints(owner)[field])


def _closest(name: str) -> str:
    """What was meant, perhaps: a name that is spelt nearly so, or that of a seed's setting without its prefix."""
    if f"{SEEDS}{name}" in names():
        return f"did you mean {SEEDS}{name}?"
    bare = {each.removeprefix(SEEDS): each for each in names()}
    found = get_close_matches(name.removeprefix(SEEDS), bare, n=2)
    return meant(bare[found[0]] if found else name, names(), "`esper run --set help` lists them")


@cache
def _hints(owner: type) -> dict[str, Any]:
    return get_type_hints(owner)


def _typed(name: str, text: str, hint: Any) -> Any:
    """The text as a value of the setting's type; whether it is in range the configuration checks itself."""
    kinds = set(_kinds(hint))
    if NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds:
        if text.lower() not in _SWITCHES:
            raise InvalidInput(f"{name} is {text!r}; it must be true or false")
        return _SWITCHES[text.lower()]
    if tuple in kinds:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    for kind, what in ((int, "a whole number"), (float, "a number")):
        if kind in kinds and float not in kinds - {kind}:
            try:
                value = kind(text)
            except ValueError:
                none = " or none" if NoneType in kinds else ""
                raise InvalidInput(f"{name} is {text!r}; it must be {what}{none}") from None
            if not math.isfinite(value):
                raise InvalidInput(f"{name} is {text}; it must be a finite number")
            return value
    return text


def _kinds(hint: Any) -> Iterator[Any]:
    """The plain types that a hint lets through."""
    origin = get_origin(hint)
    if origin is Literal:
        yield str
    elif origin is tuple:
        yield tuple
    elif get_args(hint):
        for each in get_args(hint):
            yield from _kinds(each)
    else:
        yield hint


def show_settings(*, as_json: bool) -> None:
    """Every setting with its default and what it may be."""
    rows = [(name, *_about(name)) for name in names()]
    if as_json:
        say_json([{"setting": name, "default": default, "allowed": allowed} for name, default, allowed in rows])
        return
    say(table(("setting", "default", "allowed"), [(name, _word(default), allowed) for name, default, allowed in rows]))


def _about(name: str) -> tuple[Any, str]:
    config = RunConfig()
    owner, field = (config.seeds, name.removeprefix(SEEDS)) if name.startswith(SEEDS) else (config, name)
    hint = get_type_hints(type(owner), include_extras=True)[field]
    return getattr(owner, field), " or ".join(dict.fromkeys(_allowed(hint)))


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _allowed(hint: Any, limits: str = "") -> Iterator[str]:
    """What a hint lets through, in words."""
    words = {int: "a whole number", float: "a number", bool: "true, false", NoneType: "none", str: "a text"}
    if get_origin(hint) is Literal:
        yield ", ".join(get_args(hint))
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
            for name, word in said.items():
                if isinstance(limit := getattr(part, name, None), int | float):
                    yield f"{word} {limit:g}"
