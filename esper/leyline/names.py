"""What is read from disk, network or an event and then becomes a file's name: checked here, and nowhere else.

A name is one part of a path: letters, digits, `_`, `-` and `.`, and it begins with a letter, a digit or `_`. So it
cannot leave its folder, hide, be taken for an option or an address, say anything to a terminal, or need quoting in SQL
or a shell. Whoever joins such a string to a path calls `checked` first; files are then opened through `folders.Folder`,
which follows no links.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from esper.errors import InvalidInput

MAX_LENGTH: Final = 249
"""As Kafka's topics have it; a file's name may have 255 bytes, which leaves room for an ending."""
SHOWN: Final = 60
_NAME: Final = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{MAX_LENGTH - 1}}}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class NotAName(InvalidInput, ValueError):
    """A string that would have become a file's name and is none. A ValueError too, as parsers take for damage."""


def is_name(value: object) -> bool:
    """Whether `value` can be a file's name in any folder."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def checked(value: object, what: str, where: object = "") -> str:
    """`value`, where it is a name; raises NotAName, which says `what` it would have been and `where` it stands."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    inside = f" in {where}" if where else ""
    raise NotAName(
        f"{what} {shown(value)}{inside} is not a name (letters, digits, '_', '-' and '.', at most {MAX_LENGTH}): "
        "nothing is read, written or removed by it; ask whoever made it for a whole copy"
    )


def digest(value: object, what: str, where: object = "") -> str:
    """`value`, where it is 64 hex digits, as objects, kernels and files are named by; raises NotAName."""
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return value
    inside = f" in {where}" if where else ""
    raise NotAName(f"{what} {shown(value)}{inside} is not a SHA-256 of 64 hex digits; ask whoever made it for a copy")


def shown(value: object) -> str:
    """A string from outside as an error shows it: quoted, without control characters, and not longer than a line."""
    text = ascii(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"


def meant(word: str, known: Iterable[str], otherwise: str, *, most: int = 1) -> str:
    """What to say of a word that nothing is called by: "did you mean …?" with what comes near, or else `otherwise`."""
    near = get_close_matches(word, list(known), n=most)
    return f"did you mean {' or '.join(near)}?" if near else otherwise
