"""Run ids: short enough to type the beginning of, and how a person's word for a run becomes its id."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from esper.errors import InvalidInput

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
