"""The straight way from records to chosen columns, for readers that want a few fields of a few body types and no more.

A message type like `Event` is made that has the envelope and the chosen fields of the chosen bodies; ptars takes it
and skips all else unread. One call turns a chunk of a topic into columns, whatever is in it: 0.5 µs an event, where
the archive's `decode`, which keeps everything and names every breach, takes 2 to 3. What an event breaks is found in
the columns. And which rows of the archive to leave out, because the log delivers at least once: `repeats`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import ptars
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.message import DecodeError

from contracts.leyline.v1 import event_pb2
from esper.leyline.envelope import MESSAGE_VERSION, SCHEMA_VERSION, VERSIONED
from projections.columns import BODIES, pattern, quoted
from projections.wire_schema import ENVELOPE_TWIN, POOL, twin_of

ALWAYS: Final = ("event_id", "schema_version", "recorded_at_ns")
"""What is always decoded of the envelope, because whether an event counts depends on it."""

_EVENT: Final = event_pb2.Event.DESCRIPTOR.fields_by_name


class Narrow:
    """Decodes events to the fields that `bodies` names for each wanted body type, and to those of `envelope`.

    A batch of columns has those of the envelope, `ALWAYS` among them, and one struct per body type, null where the
    event is of another; with the version of its message where it has one.
    """

    def __init__(self, bodies: Mapping[str, Iterable[str]], envelope: Iterable[str] = ()) -> None:
        wanted = tuple((body, _with_version(body, fields)) for body, fields in sorted(bodies.items()))
        self._descriptor = _narrowed(wanted, frozenset({*ALWAYS, *envelope}))
        self._handler = ptars.HandlerPool([self._descriptor.file], ptars.PtarsConfig(timestamp_unit="us"))

    def columns(self, payloads: Sequence[bytes]) -> pa.RecordBatch:
        """The columns of events; raises ValueError where one of `payloads` is torn."""
        return self._handler.get_for_message(self._descriptor).list_to_record_batch(payloads)

    def torn(self, payloads: Sequence[bytes]) -> list[int]:
        """The places of those that are no message at all, so that the others can be decoded without them."""
        parse = message_factory.GetMessageClass(self._descriptor).FromString
        found = []
        for place, payload in enumerate(payloads):
            try:
                parse(payload)
            except DecodeError:
                found.append(place)
        return found


def lawful(columns: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows keep the contract's rules: an id of 16 bytes, schema and message of the versions that are read."""
    ids = pc.equal(pc.binary_length(columns.column("event_id")), 16)
    version = pc.equal(columns.column("schema_version"), SCHEMA_VERSION)
    kept: np.ndarray[Any, np.dtype[np.bool_]] = pc.and_(ids, version).to_numpy(zero_copy_only=False)
    for body in VERSIONED.keys() & set(columns.schema.names):
        path = [VERSIONED[body], "version"] if VERSIONED[body] else ["version"]
        others = pc.not_equal(pc.struct_field(columns.column(body), path), MESSAGE_VERSION)
        kept &= ~pc.fill_null(others, fill_value=False).to_numpy(zero_copy_only=False)
    return kept


def _with_version(body: str, fields: Iterable[str]) -> tuple[str, ...]:
    """The fields of a body to decode, and the one that says its message's version."""
    version = {VERSIONED[body] or "version"} if body in VERSIONED else set()
    return tuple(sorted({*fields, *version}))


@cache
def _narrowed(bodies: tuple[tuple[str, tuple[str, ...]], ...], envelope: frozenset[str]) -> Any:
    """The twin's descriptor, in the pool of all twins; its name is a digest of what it holds."""
    digest = hashlib.sha256(repr((bodies, sorted(envelope))).encode()).hexdigest()
    package = f"esper.narrow.n{digest[:16]}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    event = file.message_type.add(name="Event")
    originals = descriptor_pb2.DescriptorProto()
    ENVELOPE_TWIN.CopyToProto(originals)
    event.field.extend(field for field in originals.field if field.name in envelope)
    files = [ENVELOPE_TWIN.file, *ENVELOPE_TWIN.file.dependencies]
    files += [inner for each in files for inner in each.dependencies]
    file.dependency.extend(sorted({each.name for each in files}))
    for body, wanted in bodies:
        twin = twin_of(BODIES[body].full_name)
        file.message_type.append(_trimmed(twin, frozenset(wanted), package))
        field = event.field.add(name=body, number=_EVENT[body].number)
        field.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{package}.{twin.name}"
    POOL.Add(file)
    return POOL.FindMessageTypeByName(f"{package}.Event")


def _trimmed(twin: Any, wanted: frozenset[str], package: str) -> descriptor_pb2.DescriptorProto:
    """A message with the wanted fields of another, under the same numbers."""
    whole = descriptor_pb2.DescriptorProto()
    twin.CopyToProto(whole)
    message = descriptor_pb2.DescriptorProto(name=whole.name)
    message.nested_type.extend(whole.nested_type)
    for field in whole.field:
        if field.name not in wanted:
            continue
        kept = message.field.add()
        kept.CopyFrom(field)
        if kept.HasField("oneof_index"):  # also what makes a proto3 field optional
            kept.ClearField("oneof_index")
            if kept.proto3_optional:
                kept.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{kept.name}")
        if kept.type_name.startswith(f".{twin.full_name}."):
            kept.type_name = f".{package}.{kept.type_name.removeprefix(f'.{twin.file.package}.')}"
    return message


MEMORY: Final = "512MB"


def repeats(files: Iterable[Path], starts: Mapping[int, int]) -> dict[int, list[int]]:
    """The offsets, by partition and rising, of rows of one table that repeat an event of an earlier row.

    Only rows count whose partition is in `starts`, from the offset that stands there. Exact, over any number of rows:
    DuckDB spills what does not fit into `MEMORY`.
    """
    import duckdb  # noqa: PLC0415 - a reader without an archive needs none

    listed = ", ".join(quoted(pattern(file)) for file in files)
    if not listed or not starts:
        return {}
    wanted = " OR ".join(f"(log_partition = {place} AND log_offset >= {start})" for place, start in starts.items())
    found: dict[int, list[int]] = {}
    with tempfile.TemporaryDirectory() as spill, duckdb.connect(":memory:") as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'; SET threads = 2; SET temp_directory = '{spill}'")
        rows = connection.execute(
            f"""
            WITH ids AS (SELECT event_id, log_partition, log_offset FROM read_parquet([{listed}]) WHERE {wanted}),
                 twice AS (SELECT event_id FROM ids GROUP BY event_id HAVING count(*) > 1)
            SELECT log_partition, log_offset FROM ids SEMI JOIN twice USING (event_id)
            QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY log_partition, log_offset) > 1
            ORDER BY ALL
            """  # noqa: S608 - names and numbers of ours
        ).fetchall()
    for partition, offset in rows:
        found.setdefault(partition, []).append(offset)
    return found
