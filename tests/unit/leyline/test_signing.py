"""Signatures: whole events, two keys while they rotate, a retired key for old events only (R-SEC-1, 3, 11)."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import InvalidInput
from esper.leyline.signing import KeyRing, ManyHeaders, Signed, key_id

OLD, NEW = b"o" * 32, b"n" * 32


@pytest.mark.requirement("R-SEC-1")
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


@pytest.mark.requirement("R-SEC-11")
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


@pytest.mark.requirement("R-SEC-1")
@pytest.mark.parametrize("secrets", [(), (b"short",), (NEW, b"short")])
def test_a_weak_ring_is_refused(secrets):
    with pytest.raises(InvalidInput, match="secret"):
        KeyRing(secrets)


def test_a_ring_never_shows_its_secrets():
    ring = KeyRing((NEW,), retired={OLD: 1})

    assert key_id(NEW) in repr(ring)
    assert "nnnn" not in repr(ring)
    assert "oooo" not in repr(ring)


def test_many_are_judged_as_each_alone_would_be():
    """Good ones, retired keys before and after, other keys, odd header orders, none at all."""
    new, old, foreign = b"n" * 32, b"o" * 32, b"f" * 32
    ring = KeyRing((new,), retired={old: 1_000})
    payload = b"an event"

    def headers(secret: bytes) -> list[tuple[str, bytes | None]]:
        signed = KeyRing((secret,)).sign(payload)
        return [("esper-key", signed.key_id.encode()), ("esper-signature", signed.signature)]

    cases = [
        (payload, headers(new), 5),
        (payload, headers(new)[::-1], 5),
        (payload, [("trace", b"1"), *headers(new)], 5),
        (payload, headers(old), 999),
        (payload, headers(old), 1_000),
        (payload, headers(foreign), 5),
        (b"another", headers(new), 5),
        (None, headers(new), 5),
        (payload, [], 5),
        (payload, [("esper-key", None), ("esper-signature", None)], 5),
        (payload, [("esper-key", b"\xff"), ("esper-signature", b"x")], 5),
    ]

    late = (payload, headers(old), 5, 1)  # dated back: its record arrived a millisecond after 1970, and too late

    payloads, many, *times = zip(*[(*case, 0) for case in cases], late, strict=True)
    refused = dict(ring.refused(payloads, ManyHeaders(many), *times))

    invalid, missing = "invalid_signature", "missing_signature"
    assert refused == {4: invalid, 5: invalid, 6: invalid, 7: invalid, 8: missing, 9: missing, 10: invalid, 11: invalid}
