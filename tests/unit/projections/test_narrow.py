"""The narrow way to columns gives what the archive's decoder gives, for every type of event and every field."""

from __future__ import annotations

import pyarrow as pa
import pytest

from contracts.leyline.v1 import event_pb2
from projections.columns import BODIES, ENVELOPE, STRUCT, column_name
from projections.decode import decode
from projections.generated import history, records
from projections.narrow import Narrow, lawful
from projections.records import batches_of

PLACE = ("log_partition", "log_offset")


@pytest.fixture(scope="module")
def made():
    """Records of most types, by type, in their order."""
    found = {}
    for record in records(history(2_500)):
        found.setdefault(event_pb2.Event.FromString(record.value).WhichOneof("body"), []).append(record)
    return found


def in_order(table, group):
    """The rows in the order of the records; the archive has them partition by partition."""
    places = {place: row for row, place in enumerate(zip(*[table[n].to_pylist() for n in PLACE], strict=True))}
    return table.take([places[each.partition, each.offset] for each in group])


def test_every_field_of_every_type_is_the_same(made):
    for body, group in made.items():
        wanted = [f.name for f in BODIES[body].fields if f.message_type is None or f.message_type.full_name != STRUCT]
        expected = in_order(decode(batches_of(group))[body], group)

        found = Narrow({body: wanted}, [field.name for field in ENVELOPE]).columns([each.value for each in group])

        assert lawful(found).all()
        assert found.column(body).null_count == 0
        for field in ENVELOPE:
            assert found.column(field.name) == expected[field.name].combine_chunks(), (body, field.name)
        names = {field.name: column_name(field) for field in BODIES[body].fields}
        for name in wanted:
            assert found.column(body).field(name) == expected[names[name]].combine_chunks(), (body, name)


def test_types_that_are_not_wanted_are_null(made):
    payloads = [made["epoch_completed"][0].value, made["field_report"][0].value, made["step_sampled"][0].value]

    found = Narrow({"field_report": ["outcome"], "epoch_completed": []}).columns(payloads)

    assert found.column("field_report").is_valid().to_pylist() == [False, True, False]
    assert found.column("epoch_completed").is_valid().to_pylist() == [True, False, False]
    assert pa.types.is_struct(found.column("field_report").type)
    assert [each.name for each in found.column("field_report").type] == ["version", "outcome"]


def test_what_is_torn_is_found_and_what_breaks_the_envelopes_rules_is_not_lawful(made):
    good = made["field_report"][0].value
    narrow = Narrow({"field_report": ["outcome"]})
    other = event_pb2.Event.FromString(good)
    other.schema_version = 9
    short = event_pb2.Event.FromString(good)
    short.event_id = b"short"
    payloads = [good, other.SerializeToString(), short.SerializeToString(), b""]

    assert narrow.torn([good, good[:-1], b"\xff\xff", good]) == [1, 2]
    with pytest.raises(ValueError, match=r"."):
        narrow.columns([good, good[:-1]])
    assert lawful(narrow.columns(payloads)).tolist() == [True, False, False, False]


@pytest.mark.parametrize("version", [0, 2])
def test_a_message_of_another_version_is_not_lawful_whatever_is_wanted_of_it(made, version):
    """R-LEY-6."""
    epoch, report = (event_pb2.Event.FromString(made[body][0].value) for body in ("epoch_completed", "field_report"))
    epoch.epoch_completed.state.version = version
    report.field_report.version = version
    good = [made["epoch_completed"][0].value, made["field_report"][0].value, made["step_sampled"][0].value]
    payloads = [*good, epoch.SerializeToString(), report.SerializeToString()]

    found = Narrow({"epoch_completed": ["params"], "field_report": ["outcome"]}).columns(payloads)

    assert lawful(found).tolist() == [True, True, True, False, False]
