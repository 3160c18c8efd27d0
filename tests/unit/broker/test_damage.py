"""Random histories, random damage: what is read is what was written, what is lost is said, no offset comes twice."""

from __future__ import annotations

import os
import random

import pytest


def damage(source, folder):
    """Cuts, flips or zeroes bytes of one segment; how many batches of at least 80 bytes that can touch."""
    path = source.choice(sorted(folder.glob("*.log")))
    size = path.stat().st_size
    if size == 0:
        return 0
    data = bytearray(path.read_bytes())
    start = source.randrange(size)
    length = source.randint(1, 200)
    kind = source.choice(["cut", "flip", "zero"])
    if kind == "cut":
        os.truncate(path, start)
        return size
    if kind == "flip":
        data[start] ^= 1 << source.randrange(8)
    else:
        data[start : start + length] = bytes(len(data[start : start + length]))
    path.write_bytes(data)
    return 2 + length // 80


def survey(log, written):
    """Everything that can be read, and how many offsets a client would refuse."""
    found, refused, offset = {}, 0, log.partition.start
    while offset < log.partition.end:
        try:
            fetched = [(o, value) for o, value in log.read(offset) if o >= offset]
        except AssertionError:
            refused += 1
            offset += 1
            continue
        for o, value in fetched:
            assert value == written[o], f"offset {o} holds another record"
        found |= dict(fetched)
        assert log.behind(offset) > offset, f"nothing at {offset}, below the end"
        offset = log.behind(offset)
    return found, refused


@pytest.mark.parametrize("count", [40, pytest.param(2_000, marks=pytest.mark.soak)])
def test_random_damage(tmp_path, log_in, count):
    for seed in range(count):
        source = random.Random(seed)
        log = log_in(tmp_path / str(seed))
        written = {}
        for _ in range(source.randint(1, 60)):
            value = source.randbytes(source.randint(1, 900))
            written[log.append(value)] = value
            if source.random() < 0.05:
                log.crash()
        touched = []
        log.crash(damage=lambda folder, source=source, touched=touched: touched.append(damage(source, folder)))
        found, refused = survey(log, written)
        lost = written.keys() - found.keys()
        assert len(lost) <= touched[0]
        inside = {offset for offset in lost if offset < max(found, default=-1)}
        assert refused >= len(inside), "a loss inside the log must not be silent"
        following = log.append(b"after")
        assert following > max(written)
        assert log.read(following)[-1] == (following, b"after")
        log.partition.close()


def test_damage_behind_offsets_that_were_never_given_is_refused_together_with_them(tmp_path, log_in):
    """Else a reader that believes no damaged header steps through each of them: half a million after a lost `tail`."""
    log = log_in(tmp_path)
    log.append(b"before")
    (tmp_path / "tail").write_bytes(b"no tail")
    log.crash()
    leapt = log.append(b"damaged", b"with it")
    after = log.append(b"after")
    log.append(b"x" * 4_000)  # in the next segment: what is flipped is found by its reader, and by no start
    assert leapt > 1_000

    def flip(folder):
        path = folder / f"{leapt:020}.log"
        data = bytearray(path.read_bytes())
        data[70] ^= 1
        path.write_bytes(data)

    log.crash(damage=flip)
    told = log.partition.read(1, 1 << 20)
    first, covered = int.from_bytes(told[:8], "big"), int.from_bytes(told[23:27], "big") + 1

    assert (first, first + covered) == (1, after)
    assert log.read(after)[0] == (after, b"after")


def test_a_segment_of_damage_alone_before_offsets_that_were_never_given_is_passed_over(tmp_path, log_in):
    """A fetch behind the damage failed with an IndexError, for every partition of the request, for ever."""
    log = log_in(tmp_path)
    damaged = log.append(b"damaged")
    after = log.append(b"x" * 4_000)  # in the next segment, so that the first one is closed

    def flip(folder):
        path = folder / f"{damaged:020}.log"
        data = bytearray(path.read_bytes())
        data[70] ^= 1
        path.write_bytes(data)
        path.with_suffix(".index").unlink()

    def leap(folder):
        """What a lost `tail` comes to: offsets that nobody has between the two."""
        (folder / f"{after:020}.log").rename(folder / f"{after + 8:020}.log")

    log.crash(damage=flip)
    log.crash(damage=leap)

    for offset in range(damaged, after + 8):
        assert log.partition.read(offset, 1) != b""
