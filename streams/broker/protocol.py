"""Kafka messages to kio's schema classes and back, and how a request is refused.

The layouts are kio's (generated from Kafka's own schema files); the reading is done here, because kio 0.6.5 allocates
whatever an array length says before it looks at the bytes, and four hostile bytes then abort the whole process. This
reader believes a length only as far as there are bytes behind it.

Only non-flexible versions are read (see `connection.py`), so there are no compact lengths and no tagged fields.

"""

from __future__ import annotations

import datetime as dt
import io
import struct
import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, Final, TypeVar, cast, get_args, get_origin

from kio.schema.errors import ErrorCode
from kio.serial import entity_writer

Fields = dict[str, Any]
"""What a handler answers: field names of the response; names that a version lacks are left out of it."""
NO_TIME: Final = dt.timedelta(0)
_STRUCTS: Final = {
    "int8": struct.Struct(">b"),
    "int16": struct.Struct(">h"),
    "int32": struct.Struct(">i"),
    "int64": struct.Struct(">q"),
    "uint16": struct.Struct(">H"),
    "bool": struct.Struct(">?"),
    "timedelta_i64": struct.Struct(">q"),
}
_TAGGED_HEADER: Final = 1
_PRODUCED: Final = struct.Struct(">ihqq")
_NO_ERRORS_AND_LENGTH: Final = struct.Struct(">ih")
_LOG_START_SINCE: Final = 5
_WHY_SINCE: Final = 8
_MOST_WHY: Final = 32_767
_INT16: Final = _STRUCTS["int16"]
_INT32: Final = _STRUCTS["int32"]
Reader = Callable[[bytes, int], tuple[Any, int]]
"""Reads one value of `data` at `position`: the value, and the position after it."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Refused(Exception):
    """A request, or one part of it, is answered with `code`; nothing was changed."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class Malformed(Exception):
    """Bytes that are no request of an advertised version: the connection that sent them is closed."""


def _once(function: _Function) -> _Function:
    """`functools.cache` that keeps the signature."""
    return cast("_Function", cache(function))


@dataclass(frozen=True, slots=True)
class _Shape:
    """How one field is laid out: `entity` is the nested class, or `kind` the primitive's name in Kafka's schema."""

    name: str
    kind: str
    entity: type[Any] | None
    array: bool
    optional: bool


@_once
def _shapes(entity: type[Any]) -> tuple[_Shape, ...]:
    """The fields of a kio class in wire order."""
    return tuple(_shape(field.name, field.type, field.metadata.get("kafka_type", "")) for field in fields(entity))


def _shape(name: str, annotation: Any, kind: str) -> _Shape:
    optional = isinstance(annotation, types.UnionType)
    if optional:
        annotation = next(arm for arm in get_args(annotation) if arm is not type(None))
    array = get_origin(annotation) is tuple
    if array:
        annotation = get_args(annotation)[0]
    return _Shape(name, kind, None if kind else annotation, array, optional)


def read_string(data: bytes, position: int) -> tuple[str | None, int]:
    """A length of two bytes and that many of UTF-8; -1 is null."""
    (length,) = _INT16.unpack_from(data, position)
    end = position + 2 + max(length, 0)
    if length < -1 or end > len(data):
        raise Malformed(f"a string of {length} bytes where {len(data) - position - 2} are left")
    return (None if length < 0 else data[position + 2 : end].decode()), end


def _read_bytes(data: bytes, position: int) -> tuple[bytes | None, int]:
    (length,) = _INT32.unpack_from(data, position)
    end = position + 4 + max(length, 0)
    if length < -1 or end > len(data):
        raise Malformed(f"a byte string of {length} bytes where {len(data) - position - 4} are left")
    return (None if length < 0 else data[position + 4 : end]), end


def _number_reader(kind: str) -> Reader:
    layout = _STRUCTS[kind]
    size = layout.size

    def read(data: bytes, position: int) -> tuple[Any, int]:
        return layout.unpack_from(data, position)[0], position + size

    return read


def _read_milliseconds(data: bytes, position: int) -> tuple[dt.timedelta, int]:
    return dt.timedelta(milliseconds=_INT32.unpack_from(data, position)[0]), position + 4


def _array_reader(item: Reader) -> Reader:
    def read(data: bytes, position: int) -> tuple[tuple[Any, ...] | None, int]:
        (count,) = _INT32.unpack_from(data, position)
        position += 4
        if count == -1:
            return None, position
        if not 0 <= count <= len(data) - position:
            raise Malformed(f"an array of {count} where {len(data) - position} bytes are left")
        items = []
        for _ in range(count):
            value, position = item(data, position)
            items.append(value)
        return tuple(items), position

    return read


def _primitive_reader(kind: str) -> Reader:
    match kind:
        case "string":
            return read_string
        case "bytes" | "records":
            return _read_bytes
        case "timedelta_i32":
            return _read_milliseconds
        case _:
            return _number_reader(kind)


@_once
def reader(entity: type[Any]) -> Reader:
    """A reader of one kio class, which must be of a non-flexible version."""
    assert not entity.__flexible__, f"{entity} is flexible: advertise an earlier version"
    readers = []
    for shape in _shapes(entity):
        item = reader(shape.entity) if shape.entity is not None else _primitive_reader(shape.kind)
        readers.append((shape.name, _array_reader(item) if shape.array else item, shape.optional))

    def read(data: bytes, position: int) -> tuple[Any, int]:
        values = {}
        for name, read_field, optional in readers:
            value, position = read_field(data, position)
            if value is None and not optional:
                raise Malformed(f"{entity.__name__}.{name} is null")
            values[name] = value
        return entity(**values), position

    return read


def read_message(entity: type[Any], data: bytes, position: int) -> Any:
    """The message that fills `data` from `position`.

    Raises:
        Malformed: it does not, whatever the reason.
    """
    try:
        message, _ = reader(entity)(data, position)
    except (struct.error, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"{entity.__name__} version {entity.__version__}: {error}") from error
    return message


@_once
def _takes(entity: type[Any]) -> tuple[tuple[str, type[Any] | None, bool], ...]:
    return tuple((shape.name, shape.entity, shape.array) for shape in _shapes(entity))


@_once
def _defaults(entity: type[Any]) -> Fields:
    """What a handler need not say: no throttling ever."""
    return {f.name: NO_TIME for f in fields(entity) if f.name == "throttle_time" and f.default is MISSING}


def build(entity: type[Any], values: Fields) -> Any:
    """A kio object from plain values: nested ones are mappings, arrays are any iterable, None stays None."""
    taken = dict(_defaults(entity))
    for name, nested, array in _takes(entity):
        if name not in values:
            continue
        value = values[name]
        if value is not None and nested is not None:
            value = tuple([build(nested, item) for item in value]) if array else build(nested, value)
        elif array and value is not None:
            value = tuple(value)
        taken[name] = value
    return entity(**taken)


def write_produced(version: int, correlation_id: int, values: Fields) -> bytes:
    """A response to Produce as `write_message` makes it, packed by hand: every write of everybody waits for it.

    `log_append_time` is milliseconds, -1 for none.
    """
    parts = [_INT32.pack(correlation_id), _INT32.pack(len(values["responses"]))]
    for topic in values["responses"]:
        name, partitions = topic["name"].encode(), topic["partition_responses"]
        parts += (_INT16.pack(len(name)), name, _INT32.pack(len(partitions)))
        for each in partitions:
            appended_ms = each.get("log_append_time", -1)
            parts.append(_PRODUCED.pack(each["index"], each["error_code"], each["base_offset"], appended_ms))
            if version >= _LOG_START_SINCE:
                parts.append(_STRUCTS["int64"].pack(each.get("log_start_offset", -1)))
            if version >= _WHY_SINCE:
                why = each.get("error_message")
                said = (why or "").encode()[:_MOST_WHY]
                parts += (_NO_ERRORS_AND_LENGTH.pack(0, -1 if why is None else len(said)), said)
    parts.append(_INT32.pack(0))  # no throttling
    body = b"".join(parts)
    return _INT32.pack(len(body)) + body


def write_message(entity: type[Any], correlation_id: int, values: Fields) -> bytes:
    """A whole response frame: size, header (with a list of no tags in the one flexible version there is) and body."""
    buffer = io.BytesIO()
    buffer.write(bytes(4))
    buffer.write(_INT32.pack(correlation_id))
    if entity.__header_schema__.__version__ == _TAGGED_HEADER:
        buffer.write(b"\0")
    entity_writer(entity)(buffer, build(entity, values))
    size = buffer.tell()
    view = buffer.getbuffer()
    _INT32.pack_into(view, 0, size - 4)
    view.release()
    return buffer.getvalue()
