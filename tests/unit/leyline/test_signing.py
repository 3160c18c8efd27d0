"""Signatures: whole events, two keys while they rotate, a retired key for old events only (R-SEC-1, 3, 11)."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import InvalidInput
from esper.leyline.signing import KeyRing, Signed, key_id

OLD, NEW = b"o" * 32, b"n" * 32


@given(st.binary(max_size=100))
def test_a_signature_is_the_hmac_of_the_whole_payload(payload):
    signed = KeyRing((NEW,)).sign(payload)

    assert signed.signature == hmac.new(NEW, payload, hashlib.sha256).digest()
    assert KeyRing((NEW,)).verify(signed, 0) is None


@given(st.binary(min_size=1, max_size=100), st.data())
def test_one_changed_bit_breaks_it(payload, data):
    signed = KeyRing((NEW,)).sign(payload)
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    changed = bytearray(payload)
    changed[bit // 8] ^= 1 << bit % 8

    assert KeyRing((NEW,)).verify(Signed(bytes(changed), signed.key_id, signed.signature), 0) == "invalid_signature"


def test_nothing_is_lost_during_a_rotation():
    """Old key alone, then both with the new one signing, then the new one alone with the old one retired."""
    before, during = KeyRing((OLD,)), KeyRing((NEW, OLD))
    after = KeyRing((NEW,), retired={OLD: 1000})

    assert during.verify(before.sign(b"x"), 500) is None
    assert during.verify(during.sign(b"x"), 500) is None
    assert during.sign(b"x").key_id == key_id(NEW)
    assert after.verify(before.sign(b"x"), 999) is None
    assert after.verify(before.sign(b"x"), 1000) == "invalid_signature"
    assert KeyRing((NEW,)).verify(before.sign(b"x"), 500) == "invalid_signature"


@pytest.mark.parametrize("signed", [Signed(b"x"), Signed(b"x", "k", b""), Signed(b"x", "", b"s")])
def test_an_unsigned_event_says_so(signed):
    assert KeyRing((NEW,)).verify(signed, 0) == "missing_signature"


@given(st.text(min_size=1), st.binary(min_size=1))
def test_garbage_is_no_signature_and_never_raises(name, signature):
    assert KeyRing((NEW,)).verify(Signed(b"x", name, signature), 0) == "invalid_signature"
    assert KeyRing((NEW,)).verify(Signed(b"x", key_id(NEW), signature), 0) == "invalid_signature"


@pytest.mark.parametrize("secrets", [(), (b"short",), (NEW, b"short")])
def test_a_weak_ring_is_refused(secrets):
    with pytest.raises(InvalidInput, match="secret"):
        KeyRing(secrets)


def test_a_ring_never_shows_its_secrets():
    ring = KeyRing((NEW,), retired={OLD: 1})

    assert key_id(NEW) in repr(ring)
    assert "nnnn" not in repr(ring)
    assert "oooo" not in repr(ring)
