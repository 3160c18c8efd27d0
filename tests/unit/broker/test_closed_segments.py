"""Segments that others follow: not read at the start, and what is damaged or missing of them is named."""

from __future__ import annotations

import os

import pytest

from streams.broker.batch import header
from tests.unit.broker.conftest import fill, flip, read_values


def test_a_closed_segment_is_not_read_at_the_start(log):
    """Its index comes from the sidecar: garbage inside of it goes unnoticed until it is read."""
    fill(log, 40)
    first = log.segments()[0]
    data = first.read_bytes()
    log.crash(damage=lambda _: first.write_bytes(data[:100] + bytes(200) + data[300:]))
    assert log.partition.damaged == []
    assert log.partition.end == 40


def test_a_damaged_closed_segment_is_named_and_the_rest_is_readable(log, caplog):
    """A flipped byte in the second of many segments."""
    fill(log, 60)
    second, third = log.segments()[1:3]
    first_offset, next_segment = int(second.stem), int(third.stem)
    log.crash(damage=lambda _: flip(second, 100))
    damaged = log.partition.read(first_offset, 10**6)
    assert header(damaged).base_offset == first_offset
    with pytest.raises(AssertionError, match="client would refuse"):
        log.read(first_offset)
    assert log.read(first_offset + 1)[0][0] == first_offset + 1
    assert log.read(next_segment)[0][0] == next_segment
    assert log.read(first_offset - 1)[0][0] <= first_offset - 1
    assert log.partition.damaged == [str(second)]
    assert str(second) in caplog.text
    assert f"offsets {first_offset} to {first_offset} are lost" in caplog.text


def test_a_shortened_closed_segment_is_named_and_the_rest_is_readable(log, caplog):
    fill(log, 60)
    second, third = log.segments()[1:3]
    log.crash(damage=lambda _: os.truncate(second, 1000))
    assert str(second) in caplog.text
    assert log.read(int(second.stem))[0][0] == int(second.stem)
    with pytest.raises(AssertionError, match="client would refuse"):
        log.read(int(third.stem) - 1)
    assert log.read(int(third.stem))[0][0] == int(third.stem)
    caplog.clear()
    log.crash()
    assert str(second) in caplog.text, "every start names the damage"


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_missing_segment_is_named_and_the_rest_is_readable(log, caplog, place):
    """The first, one in the middle, and the one that was written to; none of its offsets is given again."""
    fill(log, 60)
    gone = log.segments()[place]
    inside = [offset for offset, _ in read_values(gone.read_bytes())]
    for _ in range(2):
        caplog.clear()
        log.crash(damage=lambda _: gone.unlink(missing_ok=True))
        assert f"offsets {inside[0]} to {inside[-1]} are not there" in caplog.text, "every start names it"
    assert log.append(b"after") == 60
    assert [offset for offset, _ in log.read_all()] == [n for n in range(61) if n not in inside]


def test_a_segment_that_is_there_twice_is_named(log, caplog):
    """A copy under another offset's name; the rest is served."""
    fill(log, 60)
    first = log.segments()[0]
    last = int(log.segments()[1].stem) - 1
    log.crash(damage=lambda folder: (folder / f"{last:020d}.log").write_bytes(first.read_bytes()))
    assert f"offsets {last} to {last} are in it and in {last:020d}.log" in caplog.text
    assert log.append(b"after") == 60


def test_a_closed_segment_without_sidecar_and_end_is_named_up_to_the_next(log, caplog):
    fill(log, 60)
    second, third = log.segments()[1:3]

    def tear(_):
        os.truncate(second, second.stat().st_size - 10)
        second.with_suffix(".index").unlink()

    log.crash(damage=tear)
    lost = int(third.stem) - 1
    assert f"offsets {lost} to {lost} are lost" in caplog.text
    with pytest.raises(AssertionError, match="client would refuse"):
        log.read(lost)


@pytest.mark.parametrize("harm", ["missing", "garbled", "empty"])
def test_a_sidecar_is_made_again(log, harm):
    fill(log, 60)

    def spoil(folder):
        for sidecar in folder.glob("*.index"):
            if harm == "missing":
                sidecar.unlink()
            elif harm == "garbled":
                flip(sidecar, sidecar.stat().st_size // 2)
            else:
                sidecar.write_bytes(b"")

    before = sorted(path.name for path in log.folder.glob("*.index"))
    log.crash(damage=spoil)
    assert [offset for offset, _ in log.read_all()] == list(range(60))
    assert sorted(path.name for path in log.folder.glob("*.index")) == before
