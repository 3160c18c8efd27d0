"""Libraries that only an exchange with another tool needs: imported late, and missed in one line."""

from __future__ import annotations

import importlib
from typing import Any

from esper.errors import InvalidInput


def library(module: str, extra: str) -> Any:
    """The module; raises InvalidInput with the extra that brings it where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidInput(
            f"{extra} needs a library that is not installed ({error}): pip install 'esper-lite[{extra}]'"
        ) from None
