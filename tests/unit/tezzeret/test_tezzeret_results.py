"""Artifacts: what a child leaves becomes objects, comes back whole, and is refused where a bit changed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from esper.errors import CorruptState, InvalidInput
from esper.leyline.objects import ObjectStore
from esper.tezzeret import results
from esper.tezzeret.results import Failure, order_of, read_failure, read_order, write_failure, write_order
from esper.urza.artifact import COMPRESS_ABOVE_BYTES, MAX_BYTES


@pytest.fixture
def objects(tmp_path):
    return ObjectStore(tmp_path / "objects")


@pytest.fixture
def work(tmp_path, story):
    """What a child leaves: weights, a cache and a report."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / results.WEIGHTS_FILE).write_bytes(b"weights")
    (folder / results.CACHE_FILE).write_bytes(b"cache")
    (folder / results.REPORT_FILE).write_text(json.dumps(asdict(story.artifact().report)), encoding="utf-8")
    return folder


@pytest.mark.requirement("R-TEZ-18")
def test_it_comes_back_as_it_was_stored(objects, work):
    report = results.read_report(work)
    stored = results.store(objects, work, report)

    assert results.read(objects, stored.ref) == stored
    assert stored.report == report
    assert (objects.get(stored.weights_ref), objects.get(stored.cache_ref)) == (b"weights", b"cache")
    assert stored.bytes == sum(path.stat().st_size for path in objects.root.rglob("*") if path.is_file())
    assert stored.checksum == stored.ref.removeprefix("sha256:")
    assert (stored.prewarm_p50_ms, stored.prewarm_p95_ms) == (0.3, 0.4)


def test_the_same_work_is_the_same_artifact(objects, work):
    report = results.read_report(work)

    assert results.store(objects, work, report) == results.store(objects, work, report)


@pytest.mark.requirement("R-URZA-6")
def test_a_large_cache_is_compressed_in_the_library(objects, work):
    """R-URZA-6."""
    content = bytes(COMPRESS_ABOVE_BYTES + 1)
    (work / results.CACHE_FILE).write_bytes(content)

    stored = results.store(objects, work, results.read_report(work))

    assert objects.get(stored.cache_ref) == content
    assert stored.bytes > len(content)
    assert sum(path.stat().st_size for path in objects.root.rglob("*") if path.is_file()) < 100_000


@pytest.mark.requirement("R-URZA-6")
def test_what_the_library_would_not_serve_is_not_stored(objects, work):
    with (work / results.WEIGHTS_FILE).open("wb") as file:
        file.truncate(MAX_BYTES - 1)

    with pytest.raises(InvalidInput, match="too large"):
        results.store(objects, work, results.read_report(work))
    assert not objects.root.exists()


def test_there_may_be_no_cache(objects, work):
    (work / results.CACHE_FILE).unlink()

    assert results.store(objects, work, results.read_report(work)).cache_ref == ""


def test_without_a_report_there_is_no_artifact(work):
    whole = (work / results.REPORT_FILE).read_text(encoding="utf-8")
    (work / results.REPORT_FILE).write_text(whole[: len(whole) // 2], encoding="utf-8")
    assert results.read_report(work) is None

    (work / results.REPORT_FILE).unlink()
    assert results.read_report(work) is None


@pytest.mark.requirement("R-TEZ-18")
def test_a_missing_part_is_named(objects, work):
    stored = results.store(objects, work, results.read_report(work))
    objects.delete(stored.weights_ref)

    with pytest.raises(InvalidInput, match=stored.weights_ref):
        results.read(objects, stored.ref)


def test_a_flipped_bit_is_found(objects, work):
    stored = results.store(objects, work, results.read_report(work))
    path = next(objects.root.glob(f"*/{stored.checksum[2:]}"))
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)

    with pytest.raises(CorruptState, match="does not match its digest"):
        results.read(objects, stored.ref)


def test_a_guard_that_is_not_the_one_of_its_digest_is_refused(objects, work):
    report = results.read_report(work)
    other = ({**report.guard[0], "shape": ["batch", 9]},)

    with pytest.raises(CorruptState, match="its guard is not the one of its digest"):
        results.store(objects, work, replace(report, guard=other))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 2}', b"\x80\x04."])
def test_what_is_no_artifact_is_refused(objects, content):
    ref = objects.put(content)

    with pytest.raises(CorruptState):
        results.read(objects, ref)


@pytest.mark.requirement("R-TEZ-19")
def test_the_guard_digest_does_not_depend_on_the_order_of_keys():
    """R-TEZ-19."""
    guard = {"index": 0, "dtype": "float32", "shape": ["batch", 8]}
    turned = dict(reversed(guard.items()))

    assert results.guard_digest([guard]) == results.guard_digest([turned])
    assert f"sha256:{results.guard_digest([guard])}" == (
        "sha256:ade8c96c075cf4538c2ccbb997f04e4e36ed3eac4982ea55ddc3092e152cf811"
    )
    assert results.guard_digest([guard]) != results.guard_digest([{**guard, "dtype": "float64"}])


def test_orders_and_failures_pass_through_files(tmp_path, story):
    order = order_of(story.job, "fast", 2**30, approved=True)
    write_order(tmp_path, order)
    assert read_order(tmp_path) == order

    assert read_failure(tmp_path) is None
    write_failure(tmp_path, Failure("memory", "too much"))
    assert read_failure(tmp_path) == Failure("memory", "too much")
