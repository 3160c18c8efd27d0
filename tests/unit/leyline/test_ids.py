"""Ids: ordered by time where a chain begins, the same again where one event follows from another."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.leyline import ids

sixteen = st.binary(min_size=16, max_size=16)


@given(st.integers(0, 2**48 * 1_000_000 - 1), st.binary(min_size=10, max_size=10))
def test_a_version_7_id_says_its_millisecond(now_ns, random_bits):
    parsed = uuid.UUID(bytes=ids.uuid7(now_ns, random_bits))

    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == now_ns // 1_000_000


@given(sixteen, st.text(max_size=20), st.integers(0, 9))
def test_a_derived_id_is_the_same_every_time(cause, handler, ordinal):
    derived = ids.derived_id(cause, handler, ordinal)
    parsed = uuid.UUID(bytes=derived)

    assert derived == ids.derived_id(cause, handler, ordinal)
    assert (parsed.version, parsed.variant) == (5, uuid.RFC_4122)


def test_a_derived_id_differs_with_cause_handler_and_ordinal():
    causes = [bytes(16), bytes(15) + b"\x01"]
    derived = {ids.derived_id(c, h, o) for c in causes for h in ("tamiyo.decide", "tamiyo.command") for o in (0, 1)}

    assert len(derived) == 8


def test_a_derived_id_never_changes_between_versions_of_esper():
    """It is in every history: another derivation would give a redelivered packet a second decision."""
    assert ids.text(ids.derived_id(bytes(16), "tamiyo.decide", 0)) == "9bcfee47-dcd3-5b1b-916a-3ad9c0a1f1eb"


@given(sixteen)
def test_the_text_form_comes_back(event_id):
    assert ids.from_text(ids.text(event_id)) == event_id


def test_other_text_is_no_id():
    with pytest.raises(ValueError, match="badly formed"):
        ids.from_text("seed-1")
