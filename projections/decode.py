"""Records of the log become columns: one Arrow table per body type, and one of the records that are no valid event.

`split` parses every record once, by ptars, into columns of envelopes and encoded bodies; the bodies of one type then
become columns together. No Python object is made per record but for its signature: 3 µs an event. What ptars will not
take is decoded by `decode_python`, which must give the same values, and what protobuf will not take is kept raw in the
table `invalid` with the reason. No record is ever left out.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from contracts.topics import RUNS
from esper.leyline import envelope
from esper.leyline.signing import KeyRing
from esper.record.accept import SPECIAL
from projections import decode_python
from projections.columns import BODIES, INVALID, STRUCT, arrow_schema
from projections.decode_python import log_columns, struct_json
from projections.records import Batch
from projections.split import HANDLERS, NAMES, Split, split
from projections.verdicts import Verdicts
from projections.wire_schema import twin_of

_FACTS: Final = np.array([*(name in RUNS.bodies for name in NAMES), False])
"""Whether a kind is a fact; the last place stands for -1, no event."""

SLICE_BYTES: Final = 512 * 1024
"""So many bytes of bodies become columns at once: two bytes can be an item of a list, which takes a hundred then."""
MOST_BYTES: Final = 32 * 2**20
"""What the bodies of one flush may take as columns; 30,000 events like ours take 10 MB."""

_log = logging.getLogger(__name__)


class TooMuch(Exception):
    """The records come to more columns than memory should be taken for at once."""


def decode(
    batches: Sequence[Batch],
    keys: KeyRing | None = None,
    verdicts: Verdicts | None = None,
    most: int = MOST_BYTES,
) -> dict[str, pa.Table]:
    """The records as one table per body type that occurs, plus `invalid`; every record is in exactly one of them.

    With `keys` every signature is verified. `verdicts` knows the facts before these. Rows keep the order of `batches`.
    Raises TooMuch for more records than one where their columns come to more than `most` bytes, before any verdict.
    """
    found = split(batches, keys)
    bodies: dict[int, list[pa.Array]] = {}
    left = most if len(found.kinds) > 1 else sys.maxsize
    for kind in np.unique(found.kinds).tolist():
        if kind >= 0:
            bodies[kind] = _bodies(found, kind, left)
            left -= sum(column.nbytes for column in bodies[kind])
    log = log_columns(batches, found.raw)
    judged = _judged(found, verdicts or Verdicts())
    order = np.argsort(found.kinds, kind="stable")
    ends = np.searchsorted(found.kinds[order], np.arange(-1, len(NAMES)), side="right").tolist()
    sorted_rows = [column.take(pa.array(order)) for column in (*log, judged, *found.envelope())]
    tables: dict[str, pa.Table] = {}
    if ends[0]:
        tables[INVALID] = _invalid([column.slice(0, ends[0]) for column in sorted_rows[: len(log)]], found, order)
    for kind, body in bodies.items():
        first, end = ends[kind], ends[kind + 1]
        if first < end:
            rows = [column.slice(first, end - first) for column in sorted_rows]
            columns = [*rows[: len(log)], pa.repeat(NAMES[kind], end - first), *rows[len(log) :], *body]
            tables[NAMES[kind]] = pa.table(columns, schema=arrow_schema(NAMES[kind]))
    return tables


def _invalid(log: list[pa.Array], found: Split, order: npt.NDArray[np.intp]) -> pa.Table:
    """Records that are no event by contract, raw, each with the reason."""
    count = len(log[0])
    reasons = pa.array([found.reasons[place] for place in order[:count].tolist()], pa.string())
    columns = [*log, pa.repeat(INVALID, count), pa.nulls(count, pa.uint8()), reasons]
    return pa.table(columns, schema=arrow_schema(INVALID))


def _judged(found: Split, verdicts: Verdicts) -> pa.Array:
    """The verdict on every record, null for what is no fact."""
    places = np.flatnonzero(_FACTS[found.kinds])
    kinds = found.kinds[places]
    run_ids = found.column("run_id", places)
    verdicts.expect(run_ids.unique().to_pylist())
    facts = zip(
        run_ids.to_pylist(),
        [NAMES[kind] for kind in kinds.tolist()],
        found.column("event_id", places).to_pylist(),
        found.column("incarnation", places).to_pylist(),
        found.column("sequence", places).to_pylist(),
        _special_bodies(found, kinds),
        strict=True,
    )
    judged = np.zeros(len(found.kinds), np.uint8)
    judged[places] = verdicts.take_all(facts)
    return pa.array(judged, mask=judged == 0)


def _special_bodies(found: Split, kinds: npt.NDArray[np.int16]) -> Iterator[Any]:
    """The bodies of those facts that are judged by them, None for all others; each is made when it is asked for."""
    encoded: list[bytes | None] = [None] * len(kinds)
    parsers: dict[int, Any] = {}
    for kind in np.unique(kinds).tolist():
        if NAMES[kind] in SPECIAL:
            parsers[kind] = message_factory.GetMessageClass(BODIES[NAMES[kind]]).FromString
            places = np.flatnonzero(kinds == kind).tolist()
            for place, body in zip(places, _encoded(found, kind).to_pylist(), strict=True):
                encoded[place] = body
    for kind, body in zip(kinds.tolist(), encoded, strict=True):
        yield None if body is None else parsers[kind](body)


def _bodies(found: Split, kind: int, most: int) -> list[pa.Array]:
    """The columns of the bodies of one type; what this Esper does not read of them becomes invalid."""
    columns = _columns(found, kind, most)
    return _columns(found, kind, most) if _refuse_versions(found, kind, columns) else columns


def _refuse_versions(found: Split, kind: int, columns: list[pa.Array]) -> bool:
    """Refuse the records with a message of another version, as `envelope.parse` does; whether there was one."""
    name = NAMES[kind]
    if name not in envelope.VERSIONED:
        return False
    holder = envelope.VERSIONED[name]
    versions = columns[_place_of(BODIES[name], holder or "version")]
    if holder:
        versions = pc.struct_field(versions, "version")
    if isinstance(versions, pa.ChunkedArray):
        versions = versions.combine_chunks()
    others = pc.fill_null(pc.not_equal(versions, envelope.MESSAGE_VERSION), fill_value=False)
    if not pc.any(others).as_py():
        return False
    places = np.flatnonzero(found.kinds == kind)
    wrong = others.to_numpy(zero_copy_only=False)
    for place, version in zip(places[wrong].tolist(), versions.filter(others).to_pylist(), strict=True):
        message = f"{holder or name} of version {version}"
        found.refuse(place, f"{message}; this Esper reads {envelope.MESSAGE_VERSION}")
    return True


def _place_of(descriptor: Any, field: str) -> int:
    return [each.name for each in descriptor.fields].index(field)


def _columns(found: Split, kind: int, most: int) -> list[pa.Array]:
    """The columns of the bodies of one type; what protobuf refuses of them becomes invalid."""
    try:
        return _with_ptars(found, kind, most)
    except (ValueError, DecodeError):
        _sift(found, kind)
    try:
        return _with_ptars(found, kind, most)
    except (ValueError, DecodeError) as error:
        _log.warning("ptars refuses %s (%s): decoded in Python", NAMES[kind], error)
        return decode_python.bodies(NAMES[kind], _encoded(found, kind).to_pylist())


def _sift(found: Split, kind: int) -> None:
    """Refuse the records whose body protobuf cannot read."""
    parse = message_factory.GetMessageClass(BODIES[NAMES[kind]]).FromString
    encoded = _encoded(found, kind).to_pylist()
    for place, body in zip(np.flatnonzero(found.kinds == kind).tolist(), encoded, strict=True):
        try:
            parse(body)
        except DecodeError as error:
            found.refuse(place, f"not a {NAMES[kind]}: {error}")


def _encoded(found: Split, kind: int) -> pa.Array:
    return found.column(NAMES[kind], np.flatnonzero(found.kinds == kind))


def _with_ptars(found: Split, kind: int, most: int) -> list[pa.Array]:
    own = BODIES[NAMES[kind]]
    handler = HANDLERS.get_for_message(twin_of(own.full_name))
    slices: list[list[pa.Array]] = []
    for part in _slices(_encoded(found, kind)):
        decoded = handler.array_to_record_batch(part)  # in the order of numbers, which need not be the contract's
        slices.append([decoded.column(field.name) for field in own.fields])
        most -= sum(column.nbytes for column in slices[-1])
        if most < 0:
            raise TooMuch
    columns = slices[0] if len(slices) == 1 else [pa.chunked_array(parts) for parts in zip(*slices, strict=True)]
    for index, field in enumerate(own.fields):
        if field.message_type is not None and field.message_type.full_name == STRUCT:
            columns[index] = _json_column(columns[index])
    return columns


def _slices(encoded: pa.Array) -> Iterator[pa.Array]:
    """Bodies in slices of `SLICE_BYTES`, or of one body."""
    if encoded.nbytes <= SLICE_BYTES:
        yield encoded
        return
    ends = np.cumsum(pc.fill_null(pc.binary_length(encoded), 0).to_numpy())
    first = 0
    while first < len(encoded):
        reached = ends[first - 1] if first else 0
        following = max(first + 1, int(np.searchsorted(ends, reached + SLICE_BYTES, side="right")))
        yield encoded.slice(first, following - first)
        first = following


def _json_column(encoded: pa.Array) -> pa.Array:
    return pa.array([struct_json(item) for item in encoded.to_pylist()], pa.string())
