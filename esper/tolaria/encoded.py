"""State dictionaries of schedulers, scalers and loaders as trees of tensors, numbers and text.

What `esper.tolaria.state` can hold is tensors, numbers, text, lists and dictionaries by text: nothing is pickled. This
is the way there and back for the other plain types that such dictionaries have.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from esper.errors import InvalidInput

_KIND: Final = "$kind"
_MAPPINGS: Final[dict[str, Any]] = {"Counter": Counter, "OrderedDict": OrderedDict, "defaultdict": dict}


def encode(value: Any, path: str) -> Any:  # noqa: PLR0911 - a type, a line
    """`value` as a tree that a state can hold; raises InvalidInput, with its `path`, for what cannot be one."""
    if value is None or isinstance(value, (bool, int, str, Tensor)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_KIND: "float", "value": repr(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        wide = value.astype(np.int64) if value.dtype.kind == "u" else np.ascontiguousarray(value)
        return {_KIND: "array", "value": torch.from_numpy(wide), "dtype": value.dtype.str}
    if isinstance(value, np.generic):
        return encode(value.item(), path)
    if isinstance(value, bytes):
        return {_KIND: "bytes", "value": value.hex()}
    if isinstance(value, list):
        return [encode(each, f"{path}[{number}]") for number, each in enumerate(value)]
    if isinstance(value, (tuple, set, frozenset, deque)):
        kind = next(kind.__name__ for kind in (tuple, set, frozenset, deque) if isinstance(value, kind))
        return {_KIND: kind, "value": [encode(each, f"{path}[{number}]") for number, each in enumerate(value)]}
    if isinstance(value, Mapping):
        kind = type(value).__name__
        if kind == "dict" and all(isinstance(name, str) and not name.startswith("$") for name in value):
            return {name: encode(each, f"{path}[{name!r}]") for name, each in value.items()}
        items = [[encode(name, path), encode(each, f"{path}[{name!r}]")] for name, each in value.items()]
        return {_KIND: kind if kind in _MAPPINGS else "dict", "value": items}
    raise InvalidInput(
        f"{path} is a {type(value).__name__}, which cannot be kept with the run's state; leave it out of `state_dict`"
    )


def decode(value: Any) -> Any:  # noqa: PLR0911 - as above
    """What `encode` was given; its tensors are copies, those of the tree stay its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {name: decode(each) for name, each in value.items()}
    inner = value["value"]
    if kind == "float":
        return float(inner)
    if kind == "bytes":
        return bytes.fromhex(inner)
    if kind == "array":
        return inner.numpy().astype(value["dtype"], copy=True)
    if kind in ("tuple", "set", "frozenset", "deque"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}[kind](decode(inner))
    return _MAPPINGS.get(kind, dict)({decode(name): decode(each) for name, each in inner})


def own_streams() -> dict[str, Any]:
    """The positions of Python's and numpy's global random streams."""
    import random  # noqa: PLC0415 - its state alone is read here

    return {"python": encode(random.getstate(), "random.getstate()"), "numpy": encode(np.random.get_state(), "numpy")}  # noqa: NPY002 - the stream that a person's script draws from


def set_own_streams(state: Mapping[str, Any]) -> None:
    """Put Python's and numpy's global random streams where `own_streams` found them."""
    import random  # noqa: PLC0415 - as above

    random.setstate(decode(state["python"]))
    np.random.set_state(decode(state["numpy"]))  # noqa: NPY002 - as above


def seed_own_streams(seed: int) -> None:
    """Begin Python's and numpy's global random streams anew."""
    import random  # noqa: PLC0415 - as above

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - as above
