"""Type and range checks of configuration dataclasses, made by pydantic from the fields' annotations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from esper.errors import InvalidInput

_RULES = {
    "greater_than": "it must be above {gt:g}",
    "greater_than_equal": "it must be {ge:g} at least",
    "less_than": "it must be below {lt:g}",
    "less_than_equal": "it must be {le:g} at most",
    "finite_number": "it must be a finite number",
}
"""By pydantic's type of error; for any other its own words are used."""


def check_fields(instance: Any, *, prefix: str = "", skip: frozenset[str] = frozenset()) -> None:
    """Raise InvalidInput for the first field whose value is not of its annotated type, or out of its range.

    `instance` is of a dataclass whose annotations may say a range: `Annotated[int, Field(gt=0)]`. Values are checked
    and never converted, so that what is recorded of them is what was given; an int is good for a float. Fields in
    `skip` check themselves. The error names the field with `prefix` in front of it, its value and what it must be.
    """
    names = [field.name for field in fields(instance) if field.name not in skip]
    owner: type = type(instance)
    try:
        _model_of(owner, skip)(**{name: getattr(instance, name) for name in names})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        value = getattr(instance, name)
        if first["type"] == "literal_error":
            choices = ", ".join(_literals(get_type_hints(type(instance))[name]))
            raise InvalidInput(f"{prefix}{name} is {value!r}, which is unknown; choose {choices}") from None
        rule = _RULES.get(first["type"], first["msg"].replace("Input should be", "it must be", 1))
        raise InvalidInput(f"{prefix}{name} is {value!r}; {rule.format(**first.get('ctx', {}))}") from None


def _literals(hint: Any) -> Iterator[str]:
    """The strings and whole numbers that a type hint lets through, wherever in it they stand."""
    for each in get_args(hint):
        if isinstance(each, str | int):
            yield str(each)
        else:
            yield from _literals(each)


@cache
def _model_of(owner: type, skip: frozenset[str]) -> type[BaseModel]:
    """A pydantic model with the annotations of the dataclass `owner`."""
    hints = {name: (hint, ...) for name, hint in get_type_hints(owner, include_extras=True).items() if name not in skip}
    config = ConfigDict(strict=True)
    model: type[BaseModel] = create_model(owner.__name__, __config__=config, **hints)  # type: ignore[call-overload]
    return model
