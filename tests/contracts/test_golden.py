"""What was once written can be read for ever: frozen bytes decode to the frozen text and encode to the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format

from contracts.leyline.v1.event_pb2 import Event
from esper.leyline import envelope

GOLDEN = sorted((Path(__file__).parent / "golden").rglob("*.binpb"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_frozen_bytes_still_mean_what_they_meant(path):
    event = envelope.parse(path.read_bytes())

    assert event == text_format.Parse(path.with_suffix(".txtpb").read_text(encoding="utf-8"), Event())


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_frozen_bytes_encode_to_themselves(path):
    frozen = path.read_bytes()

    assert Event.FromString(frozen).SerializeToString(deterministic=True) == frozen


def test_every_field_of_every_kind_of_event_is_frozen(freeze):
    """A field that no golden file sets could change unseen; python tests/contracts/freeze.py writes what is missing."""
    covered = set[str]()
    for path in GOLDEN:
        covered |= freeze.paths(Event.FromString(path.read_bytes()))
    missing = {path for _, event in freeze.examples() for path in freeze.paths(event)} - covered

    assert missing == set()


def test_the_examples_set_everything(freeze):
    """Otherwise the test above could pass without looking."""
    bodies = {envelope.body_name(event) for _, event in freeze.examples()}

    assert bodies == {field.name for field in Event.DESCRIPTOR.oneofs_by_name["body"].fields}
    for _, event in freeze.examples():
        body = envelope.body_of(event)
        unset = {field.name for field in body.DESCRIPTOR.fields} - {field.name for field, _ in body.ListFields()}
        alternatives = {field.name for oneof in body.DESCRIPTOR.oneofs for field in oneof.fields}

        assert unset <= alternatives
