"""The library with 10,000 stored versions: python tests/bench/library.py, about half a minute.

Fixture: 50 blueprints, 200 versions each over 40 site shapes, folded into a DuckDB file from signed records in batches
of 1,000; every query is asked 300 times after 20 to warm up, one thread. Serving: 50 kernels of 64 KiB through the
counter, each read from the store once and then from memory, every byte hashed every time. Limits: R-URZA-8 (a query
p50 10 ms, p95 200 ms, p99 500 ms); from memory 10 ms p50, a cached kernel to attach.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from contracts.leyline.v1 import event_pb2, leyline_pb2
from contracts.topics import BLUEPRINTS
from esper.leyline import ids
from esper.leyline.envelope import new_event
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import KeyRing
from esper.urza.artifact import guard_digest, keep
from esper.urza.cache import KernelCache
from esper.urza.library import UrzaLibrary, Wanted
from esper.urza.version import Place, Query
from projections.library import Library
from projections.records import StoredRecord
from tests.bench.table import HEADER, Row, failed, line

RING = KeyRing((b"k" * 32,))
NAMES, VERSIONS, SHAPES = 50, 200, 40
CALLS, WARM_UP = 300, 20
SETTINGS = {"depth": 2.0}
KERNEL_BYTES = 64 * 1024
STORED = f"{NAMES * VERSIONS:,} stored versions"


def bodies(objects: ObjectStore) -> Iterator[Any]:
    """The whole history of the library; the last version of every blueprint's first shape has a real artifact."""
    for name in (f"BP{number:03}" for number in range(1, NAMES + 1)):
        number = int(name[2:])
        descriptor = leyline_pb2.BlueprintDescriptor(
            blueprint_id=name, name=name, tier=leyline_pb2.BLUEPRINT_TIER_SAFE, risk=number / 100, stage=number // 8
        )
        tags = ["conv" if number % 2 else "mlp", "residual"]
        yield event_pb2.BlueprintRegistered(descriptor=descriptor, shape_kinds=["vector"], tags=tags)
        for version in range(1, VERSIONS + 1):
            width = version % SHAPES + 1
            real = version == VERSIONS
            ref, checksum = artifact(objects, name, width) if real else (f"sha256:{name}-{version}", "0")
            job = f"{name}-{version}"
            yield event_pb2.CompileRequested(
                job_id=job, blueprint_id=name, shape_kind="vector", shape=[width], parameters=SETTINGS
            )
            yield event_pb2.CompileFinished(job_id=job, blueprint_id=name, artifact_ref=ref, prewarm_p50_ms=0.5)
            yield event_pb2.ArtifactStored(
                blueprint_id=name,
                artifact_ref=ref,
                artifact_version=version,
                checksum=checksum,
                guard_digest=guard_digest(guard()),
                form="eager",
            )


def guard() -> list[dict[str, Any]]:
    """One tensor."""
    return [{"role": "state", "name": "w", "shape": [KERNEL_BYTES // 4], "dtype": "float32"}]


def artifact(objects: ObjectStore, name: str, width: int) -> tuple[str, str]:
    """A stored artifact: its reference and checksum."""
    layout = {"w": {"dtype": "F32", "shape": [KERNEL_BYTES // 4], "data_offsets": [0, KERNEL_BYTES]}}
    header = json.dumps(layout).encode()
    weights = struct.pack("<Q", len(header)) + header + hashlib.sha256(name.encode()).digest() * (KERNEL_BYTES // 32)
    manifest = {
        "format": 1,
        "blueprint_id": name,
        "shape_kind": "vector",
        "shape": [width],
        "parameters": SETTINGS,
        "form": "eager",
        "guard": guard(),
        "guard_digest": guard_digest(guard()),
        "weights_ref": keep(objects, weights),
        "weights_bytes": len(weights),
        "cache_ref": "",
        "cache_bytes": 0,
    }
    content = json.dumps(manifest).encode()
    return objects.put(content), hashlib.sha256(content).hexdigest()


def records(objects: ObjectStore) -> list[StoredRecord]:
    """The history as it lies on one partition."""
    made = []
    for offset, body in enumerate(bodies(objects)):
        event_id = ids.derived_id(b"bench", "library", offset)
        event = new_event(body, event_id=event_id, run_id="", producer="tezzeret", recorded_at_ns=1)
        signed = RING.sign(event.SerializeToString(deterministic=True))
        assert signed.key_id is not None
        headers = (("esper-key", signed.key_id.encode()), ("esper-signature", signed.signature))
        made.append(StoredRecord(BLUEPRINTS.name, 0, offset, offset, b"", signed.payload, headers))
    return made


def timed(call: Callable[[], object]) -> list[float]:
    """Milliseconds of many calls, in order of size."""
    for _ in range(WARM_UP):
        call()
    samples = []
    for _ in range(CALLS):
        started = time.perf_counter()
        call()
        samples.append((time.perf_counter() - started) * 1e3)
    return sorted(samples)


def percentiles(what: str, samples: list[float], fixture: str, limits: tuple[float, float, float]) -> list[Row]:
    """Rows for the 50th, 95th and 99th percentile."""
    return [
        Row(f"{what} p{share}", samples[len(samples) * share // 100], "ms", fixture, limit)
        for share, limit in zip((50, 95, 99), limits, strict=True)
    ]


def rows(*, full: bool = True) -> list[Row]:  # the stated counts are quick
    """All rows."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(Path(folder))


def measure(folder: Path) -> list[Row]:
    """All rows, with files in `folder`."""
    objects = ObjectStore(folder / "objects")
    history = records(objects)
    with Library(folder / "urza.duckdb", RING) as library:
        started = time.perf_counter()
        for start in range(0, len(history), 1_000):
            library.take(history[start : start + 1_000])
        rate = len(history) / (time.perf_counter() - started)
    with Library(folder / "urza.duckdb", RING) as library:
        reader = library.reader()
        place = Place.of("vector", [VERSIONS % SHAPES + 1], SETTINGS)
        queries = {
            "by id": Query(blueprint_id="BP025"),
            "by tier": Query(tier=leyline_pb2.BLUEPRINT_TIER_SAFE),
            "by stage, 100 found": Query(stage=3, limit=100),
            "by tag, older ones too": Query(tags=("CONV",), older=True),
            "one blueprint for one site": Query(blueprint_id="BP025", place=place, limit=1),
        }
        found = [Row("library rebuilt from the log", rate, "events/s", STORED)]
        for what, query in queries.items():
            assert reader.find(query), what
            found += percentiles(f"query {what}", timed(lambda query=query: reader.find(query)), STORED, (10, 200, 500))
        kernels = KernelCache(objects, time.monotonic)
        wanted = [Wanted(f"BP{number:03}", place) for number in range(1, NAMES + 1)]
        with UrzaLibrary(reader, kernels, monotonic=time.monotonic) as counter:
            now_ms = time.time_ns() // 1_000_000
            for each in wanted:
                assert not counter.serve(each, now_ms=now_ms).fallback
            turn = iter(range(10**9))
            samples = timed(lambda: counter.serve(wanted[next(turn) % NAMES], now_ms=now_ms))
            hits, all_served = counter.counts["hit"], counter.counts["hit"] + counter.counts["miss"]
            found += percentiles("serve from memory, checked", samples, "64 KiB kernels", (10, 200, 500))
            found.append(Row("hit rate", 100 * hits / all_served, "%", f"{all_served} requests for 50 kernels"))
    return found


def main() -> int:
    """Measure, print, and say whether a limit was missed."""
    found = rows()
    sys.stdout.write("\n".join([HEADER, *map(line, found)]) + "\n")
    return int(failed(found))


if __name__ == "__main__":
    sys.exit(main())
