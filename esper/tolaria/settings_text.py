"""Settings of a run as `--set NAME=VALUE` has them: read into a configuration, typed, and told of a recorded one.

Free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from functools import cache
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from esper.errors import InvalidInput
from esper.kasmina.settings import SeedSettings
from esper.leyline.names import meant
from esper.tolaria.config import RunConfig, filled

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

_ANOTHER_OPTION: Final = frozenset({"epochs", "rate_policy", "seeds.lifecycle", "compiled_kernels", "flops_budget"})
"""Settings that an option gives as well, or that follow from how the run was asked for."""

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
        if "lifecycle" in of_seeds:  # the profile decides what is not said
            of_seeds.setdefault("blend_epochs", None)
            own = {"growth_budget_factor": None, "growth_data_share": None} | own
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
        yield type(get_args(hint)[0])
    elif origin is tuple:
        yield tuple
    elif get_args(hint):
        for each in get_args(hint):
            yield from _kinds(each)
    else:
        yield hint


def beyond_defaults(recorded: Mapping[str, Any]) -> list[str]:
    """What `--set` has to give so that a run is asked for as this recorded configuration was, in the order of `names`.

    Settings that an option of their own gives are left out, and so are those that have their default. The task's own
    rate and batch size are always told: what they were by default is not on record.
    """
    values = filled(recorded)
    seeds = values["seeds"] if isinstance(values.get("seeds"), dict) else {}
    known = seeds.get("lifecycle") in get_args(_hints(SeedSettings)["lifecycle"])
    config = RunConfig(seeds=SeedSettings(lifecycle=seeds["lifecycle"])) if known else RunConfig()
    found = []
    for name in names():
        own = name.removeprefix(SEEDS)
        held, default = (seeds, config.seeds) if name.startswith(SEEDS) else (values, config)
        if name in _ANOTHER_OPTION or own not in held:
            continue
        value = tuple(held[own]) if isinstance(held[own], list) else held[own]
        if value != getattr(default, own):
            found.append(f"{name}={word(value)}")
    return found


def word(value: Any) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
