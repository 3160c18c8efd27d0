"""Signatures of many records at once: the same verdict as one by one, whatever stands in the headers."""

from __future__ import annotations

import random

from esper.leyline.signing import HEADER_KEY_ID, HEADER_SIGNATURE, KeyRing

OLD, NEW, STRANGER = b"o" * 32, b"n" * 32, b"s" * 32
RETIRED_NS = 1_000
RING = KeyRing((NEW,), retired={OLD: RETIRED_NS})


def record(chance):
    """A payload with headers as they may come, and when it was recorded."""
    payload = chance.randbytes(chance.randrange(300))
    signed = KeyRing((chance.choice([OLD, NEW, NEW, STRANGER]),)).sign(payload)
    headers = [(HEADER_KEY_ID, signed.key_id.encode()), (HEADER_SIGNATURE, signed.signature)]
    form = chance.randrange(8)
    if form == 0:
        headers.reverse()
    if form == 1:
        headers.append(("trace", b"1"))
    if form == 2:
        headers = headers[chance.randrange(2) :][:1]
    if form == 3:
        headers = []
    if form == 4:
        headers[1] = (HEADER_SIGNATURE, signed.signature[:-1] + b"!")
    if form == 5:
        headers[chance.randrange(2)] = (chance.choice([HEADER_KEY_ID, HEADER_SIGNATURE]), b"")
    return payload, headers, chance.choice([RETIRED_NS - 1, RETIRED_NS, RETIRED_NS + 1])


def test_many_at_once_are_judged_like_each_alone():
    chance = random.Random(random.random())
    records = [record(chance) for _ in range(500)]
    alone = []
    for payload, headers, at_ns in records:
        found = dict(headers)
        name = found[HEADER_KEY_ID].decode() if HEADER_KEY_ID in found else None
        alone.append(RING.check(payload, name, found.get(HEADER_SIGNATURE), at_ns) is None)

    assert RING.hold(*zip(*records, strict=True)) == alone
    assert 50 < sum(alone) < 450
