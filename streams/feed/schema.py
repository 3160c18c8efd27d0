"""What a job wants of each event: fields of one body type, each with a place in the batch, a shape and a dtype.

===============================  ============================================  ======================
field                            tensors, for n events                         dtype
===============================  ============================================  ======================
number, enum                     `name`: (n,)                                  see below
text with `among`                `name`: (n,); 1 + its place, 0 for another    int64
bytes with `width`               `name`: (n, width), zeros at the end          uint8
list                             `name`: (items,), `name.offsets`: (n + 1,)    of the item, int64
list with `pad=p`                `name`: (n, p), `name.mask`: (n, p)           of the item, bool
===============================  ============================================  ======================

float stays float32, double float64, bool bool; all other numbers are int64, times microseconds since 1970. What an
event lacks is NaN, 0 or false. The items of event i are `values[offsets[i]:offsets[i + 1]]`; with `pad`, items beyond
the p-th are left out, p = `LONGEST` takes the longest list of the batch, and `mask` is true where there is an item.

A field names a path. `outcome` is a column, `state.validation_loss` a field of a message, `metrics[loss_delta_total]`
the value of a map under a key, `seeds.alpha` a field of each message in a list, which gives a list per event. Column
names are the archive's (`projections/columns.py`): where the record lay (`log_*`), the envelope's fields, the body's.

`FIELD_REPORTS` and `STATE_PACKETS` are what a job usually wants of these.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from esper.errors import InvalidInput
from projections.columns import BODIES, LOG_COLUMNS, STRUCT, arrow_schema, column_name

PLACES: Final = ("log_topic", "log_partition", "log_offset", "log_timestamp_ms")
"""What a feed knows of where a record lay."""
_SEGMENT: Final = re.compile(r"(?P<name>[A-Za-z_0-9]+)(?:\[(?P<key>[^\]]+)\])?")


@dataclass(frozen=True, slots=True)
class Column:
    """A path that exists in the events of one body type.

    `type` is the Arrow type of the flat column, `steps` lead to it from the column `top`, and `stored` is its name
    inside a Parquet file. `body_field` is the body's own field that holds it, None where it is no part of the body.
    """

    path: str
    top: str
    steps: tuple[tuple[str, str], ...]
    type: Any
    stored: str
    body_field: str | None

    def of(self, table: pa.Table) -> Any:
        """The flat column: one value or list per row of `table`, null where the event has none.

        Files of an older Esper lack what was not there yet: that is null for every row.
        """
        if self.top not in table.column_names:
            return pa.nulls(table.num_rows, self.type)
        column = table.column(self.top)
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        for kind, name in self.steps:
            array = _under_key(array, name) if kind == "key" else _child(array, name)
            if array is None:
                return pa.nulls(table.num_rows, self.type)
        return array


def column(body: str, path: str) -> Column:
    """The column at `path` in events of type `body`; raises InvalidInput with what there is instead."""
    if body not in BODIES:
        raise InvalidInput(f"there is no event type {body!r}{_meant(body, BODIES)}")
    schema = arrow_schema(body)
    segments = [_SEGMENT.fullmatch(part) for part in path.split(".")]
    if not all(segments) or not path:
        raise InvalidInput(f"{path!r} is no path into an event; write `outcome`, `state.step` or `metrics[key]`")
    found = [(str(segment["name"]), segment["key"]) for segment in segments if segment is not None]
    top = found[0][0]
    if top not in schema.names:
        raise InvalidInput(f"{body} has no column {top!r}{_meant(top, schema.names)}")
    if top in LOG_COLUMNS and top not in PLACES:
        raise InvalidInput(f"{top} is what the archive keeps for itself; a feed has {', '.join(PLACES)}")
    fields = {column_name(field): field for field in BODIES[body].fields}
    own = fields.get(top) if top not in LOG_COLUMNS else None
    if own is not None and own.message_type is not None and own.message_type.full_name == STRUCT:
        raise InvalidInput(f"{path} of {body} is JSON, which is no tensor; read it with `esper sql`")
    type_, steps, stored = _walked(body, path, found, schema.field(top).type)
    return Column(path, top, steps, type_, stored, None if own is None else own.name)


def _walked(
    body: str, path: str, segments: list[tuple[str, str | None]], type_: Any
) -> tuple[Any, tuple[tuple[str, str], ...], str]:
    """The type at the end of a path, the steps that lead there, and its name in a Parquet file."""
    steps: list[tuple[str, str]] = []
    stored = segments[0][0]
    listed = False
    for place, (name, key) in enumerate(segments):
        if place > 0:
            listed = listed or pa.types.is_list(type_)
            inner, stored = (type_.value_type, f"{stored}.list.element") if pa.types.is_list(type_) else (type_, stored)
            if not pa.types.is_struct(inner) or inner.get_field_index(name) < 0:
                names = [child.name for child in inner] if pa.types.is_struct(inner) else []
                raise InvalidInput(f"{path!r} leads nowhere in {body}: no {name!r} there{_meant(name, names)}")
            type_, stored = inner.field(name).type, f"{stored}.{name}"
            steps.append(("child", name))
        if key is not None:
            if not pa.types.is_map(type_) or listed:
                raise InvalidInput(f"{path!r}: {name} of {body} is no map of one event, so it has no [{key}]")
            type_ = type_.item_type
            steps.append(("key", key))
        if listed and (pa.types.is_list(type_) or pa.types.is_map(type_)):
            raise InvalidInput(f"{path!r} of {body} is a list in a list, which is no column; read it with `esper sql`")
    leaf = type_.value_type if pa.types.is_list(type_) else type_
    if pa.types.is_nested(leaf):
        names = [f"{path}.{child.name}" for child in leaf] if pa.types.is_struct(leaf) else [f"{path}[KEY]"]
        raise InvalidInput(f"{path!r} of {body} has parts; name one: {', '.join(names)}")
    return (pa.list_(type_) if listed else type_), tuple(steps), stored


def _under_key(array: Any, key: str) -> Any:
    """The value of every map under a key, null where it has none; five times as fast as Arrow's `map_lookup`."""
    offsets = array.offsets.to_numpy()
    first = int(offsets[0])
    keys = array.keys.slice(first, int(offsets[-1]) - first)
    found = np.flatnonzero(pc.equal(keys, key).to_numpy(zero_copy_only=False))
    rows = np.repeat(np.arange(len(array)), np.diff(offsets))[found]
    places = np.full(len(array), -1, np.int64)
    places[rows] = found + first
    return array.items.take(pa.array(places, mask=places < 0))


def _child(array: Any, name: str) -> Any:
    """A field of every message of a column, or of every message in every list of it; None where files are older."""
    listed = pa.types.is_list(array.type)
    structs = array.values if listed else array
    if structs.type.get_field_index(name) < 0:
        return None
    values = pc.struct_field(structs, name)
    return pa.ListArray.from_arrays(array.offsets, values) if listed else values


def _meant(word: str, names: Any) -> str:
    """The end of an error's line: what was probably meant, or all there is."""
    close = difflib.get_close_matches(word, list(names), n=3)
    listed = close or sorted(names)[:12]
    return f"; there is {', '.join(listed)}" if listed else ""


LONGEST: Final = 0


_SIGNS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
    "in": lambda array, values: pc.and_(pc.is_valid(array), pc.is_in(array, value_set=pa.array(values, array.type))),
    "not in": lambda array, values: pc.and_(
        pc.is_valid(array), pc.invert(pc.is_in(array, value_set=pa.array(values, array.type)))
    ),
}


SLOTS: Final = 8
"""Seeds of a state packet that `STATE_PACKETS` has room for."""
BLUEPRINTS: Final = tuple(f"BP{number:03d}" for number in range(1, 51))
"""Blueprint ids in the order of the catalogue: code 9 is BP009."""
SEEDS: Final = tuple(f"s{number}" for number in range(1, 65))
"""Seed ids in site order: code 1 is s1."""
_ID: Final = 16


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a batch: `path` says where it is in the event, `name` what it is called (the path, if empty).

    `among` are the texts that count, `width` how many bytes are kept, `pad` how many items of a list.
    """

    path: str
    name: str = ""
    among: tuple[str, ...] = ()
    width: int = 0
    pad: int | None = None

    @property
    def key(self) -> str:
        """What the batch calls it."""
        return self.name or self.path


@dataclass(frozen=True, slots=True)
class Condition:
    """A column compared with a value; raises InvalidInput for a sign that is none or a value that fits no column."""

    column: Column
    sign: str
    value: Any

    def __post_init__(self) -> None:
        if self.sign not in _SIGNS:
            raise InvalidInput(f"where {self.column.path}: {self.sign!r} is no sign; there are {', '.join(_SIGNS)}")
        try:
            self.met(pa.nulls(0, self.column.type))
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InvalidInput(f"where {self.column.path} {self.sign} {self.value!r}: {error}") from None

    def met(self, array: Any) -> Any:
        """Whether each row meets it; null or false where not."""
        return _SIGNS[self.sign](array, self.value)


class Schema:
    """The fields of one body type, checked: raises InvalidInput for a path that leads nowhere or a form that misfits.

    A field may be given by its path alone. `where` are conditions that an event must meet, all of them, such as
    `("outcome", "!=", 0)` or `("seed_id", "in", ["s1", "s2"])`; what an event lacks meets none.
    """

    def __init__(self, body: str, fields: Sequence[Field | str], where: Sequence[tuple[str, str, Any]] = ()) -> None:
        self.body = body
        self.where = tuple(Condition(column(body, path), sign, value) for path, sign, value in where)
        self.fields = tuple(Field(field) if isinstance(field, str) else field for field in fields)
        self.columns: tuple[Column, ...] = tuple(column(body, field.path) for field in self.fields)
        if not self.fields:
            raise InvalidInput(f"a schema of {body} needs at least one field, such as `event_id`")
        keys = [field.key for field in self.fields]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InvalidInput(f"two fields of {body} are called {twice!r}; give one of them a name")
        for field, found in zip(self.fields, self.columns, strict=True):
            _check(field, found)

    def __repr__(self) -> str:
        return f"Schema({self.body!r}, {list(self.fields)!r})"


def _check(field: Field, found: Column) -> None:
    listed = pa.types.is_list(found.type)
    item = found.type.value_type if listed else found.type
    if pa.types.is_string(item) != bool(field.among):
        kind = "text: say which texts count with among=(...)" if pa.types.is_string(item) else "no text"
        raise InvalidInput(f"{field.path} is {kind}")
    if pa.types.is_binary(item) and (listed or field.width <= 0):
        raise InvalidInput(f"{field.path} is bytes: say how many with width=N, 16 for an id")
    if field.width and not pa.types.is_binary(item):
        raise InvalidInput(f"{field.path} is no bytes, so it has no width")
    if field.pad is not None and (not listed or field.pad < 0):
        raise InvalidInput(f"{field.path}: pad is for lists and at least 1, or LONGEST")


FIELD_REPORTS: Final = Schema(
    "field_report",
    [
        Field("event_id", width=_ID),
        Field("outcome"),
        Field("observation_window_epochs", "window_epochs"),
        Field("metrics[loss_delta_total]", "loss_delta"),
        Field("metrics[loss_delta_min]", "loss_delta_min"),
        Field("metrics[loss_delta_max]", "loss_delta_max"),
        Field("metrics[avg_hook_latency_ms]", "hook_ms"),
        Field("seed_id", "seed", among=SEEDS),
        Field("blueprint_id", "blueprint", among=BLUEPRINTS),
    ],
)
"""Outcome 1 success, 2 neutral, 3 regression, 4 aborted; deltas are new minus old probe loss."""
STATE_PACKETS: Final = Schema(
    "epoch_completed",
    [
        Field("event_id", width=_ID),
        Field("epoch"),
        Field("epochs_total"),
        Field("state.validation_accuracy", "accuracy"),
        Field("state.validation_loss", "loss"),
        Field("state.training_loss", "training_loss"),
        Field("probe_loss_stderr", "loss_stderr"),
        Field("params"),
        Field("params_host"),
        Field("params_budget"),
        Field("epochs_since_structural_change", "settled_epochs"),
        Field("probe_loss_history", "loss_history"),
        Field("seeds.stage", "seed.stage", pad=SLOTS),
        Field("seeds.stage_age_epochs", "seed.age", pad=SLOTS),
        Field("seeds.alpha", "seed.alpha", pad=SLOTS),
        Field("seeds.parameters", "seed.parameters", pad=SLOTS),
        Field("seeds.gradient_norm", "seed.gradient_norm", pad=SLOTS),
        Field("seeds.contribution", "seed.contribution", pad=SLOTS),
        Field("evidence.gradient_norm", "site.gradient_norm", pad=SLOTS),
        Field("evidence.descent", "site.descent", pad=SLOTS),
    ],
)
"""One row per completed epoch: the network as a whole, then its seeds (padded to eight) and its sites."""
