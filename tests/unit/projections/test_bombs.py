"""What unpacks to more than it should is refused by a bound that has a name, before it takes the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MOST_MB = 300
"""More than idle, for any of them."""

BOMBS = {
    "a thousand packed batches of four megabytes each": """
        from tests.unit.oona.test_fetched import ZSTD, on_the_wire
        from aiokafka.structs import TopicPartition
        from streams.fetched import parts
        from streams.fetching import Fetched, Reading

        place = TopicPartition("esper.runs", 0)
        one = on_the_wire(0, 1, ZSTD, value=bytes(4 * 2**20 - 100))
        data = b"".join(first.to_bytes(8, "big") + bytes(one[8:]) for first in range(1_000))
        told = []
        reading = Reading(batches=True, unreadable=told.append)
        before = mb()
        position, taken = 0, []
        while position < 40:
            reading.opened = 0
            fetched = Fetched(place, parts(data, place, position, 1_000), position, reading)
            taken = list(fetched)
            assert fetched.next_fetch_offset > position
            position = fetched.next_fetch_offset
            data = b"".join(each.to_bytes(8, "big") + bytes(one[8:]) for each in range(position, 1_000))
        assert not told
    """,
    "records of nothing but headers": """
        from tests.unit.oona.test_fetched import ZSTD, packed, sealed
        from aiokafka.record.default_records import DefaultRecordBatchBuilder
        from aiokafka.structs import TopicPartition
        from streams.fetched import parts
        from streams.fetching import Fetched, Reading

        place = TopicPartition("esper.runs", 0)
        builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2**24)
        builder.append(0, 1, None, None, [("", b"")] * 2_000_000)
        batch = packed(bytearray(builder.build()), ZSTD)
        del builder
        data = b"".join(first.to_bytes(8, "big") + bytes(batch[8:]) for first in range(20))
        before = now_mb()
        taken = list(Fetched(place, parts(data, place, 0, 20), 0, Reading(batches=True)))
        assert 1 <= len(taken) <= 2
    """,
    "events whose lists are empty messages": """
        from contracts.leyline.v1 import event_pb2
        from esper.leyline.envelope import MAX_EVENT_BYTES
        from projections.archive_writer import Archive
        from projections.records import StoredRecord, batches_of
        from streams.bulk import read_in_batches

        def record(offset):
            event = event_pb2.Event(event_id=offset.to_bytes(16, "big"), schema_version=1, run_id="bomb")
            event.run_started.inherited.extend([event_pb2.RunStarted().inherited.add()] * (MAX_EVENT_BYTES // 3))
            return StoredRecord("esper.runs", 0, offset, 1, b"", event.SerializeToString(), ())

        read_in_batches()  # as the archiver does
        batches = batches_of([record(offset) for offset in range(12)])
        with Archive(folder) as archive:
            before = mb()
            assert archive.take(batches).rows == 12
            assert sum(entry.rows for entry in archive.manifest.files) == 12
    """,
    "a Parquet file of half a gigabyte in 20 KB, whatever its footer says": """
        import hashlib
        import pyarrow as pa
        import pyarrow.parquet as pq
        from projections import manifest, open_history
        from projections.columns import arrow_schema
        from projections.manifest import FileEntry, Manifest
        from tests.unit.projections.test_parquet_pages import EMPTY_GROUPS, saying

        def asked(content):
            name = "run_started-000000001.parquet"
            (folder / "files" / name).write_bytes(content)
            assert len(content) < 600_000
            entry = FileEntry(name, "run_started", 0, 8, len(content), hashlib.sha256(content).hexdigest(), "x", 1, {})
            manifest.save(folder, Manifest(generation=1, files=(entry,)))
            with open_history(folder) as history:
                (damage,) = history.damage
                assert history.execute("SELECT count(*) FROM runs").fetchone() == (0,)
                return str(damage)

        zeros = pa.table({"log_raw": [bytes(2**26)]})
        (folder / "files").mkdir()
        path = folder / "honest"
        options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
        with pq.ParquetWriter(path, zeros.schema, **options) as writer:
            for _ in range(8):
                writer.write_table(zeros)
        del zeros
        chunk = pq.read_metadata(path).row_group(0).column(0)
        honest = path.read_bytes()
        before = now_mb()
        assert "which no file of events does" in asked(honest)
        assert "which no file of events does" in asked(saying(honest, chunk.total_uncompressed_size, 1_000))
        assert "is no Parquet file" in asked(EMPTY_GROUPS)
    """,
    "a manifest of a million files": """
        from esper.errors import CorruptState
        from projections import manifest

        name = b'{"name":"a","table":"a","level":0,"rows":0,"size":0,"sha256":"","generation":0,"offsets":[]},'
        for text in (b'{"format":1,"files":[' + 1_000_000 * name, b'{"format":1,"files":' + b"[" * 5_000_000,
                     b'{"format":1,"files":[' + 100_000 * name[:40], b"[" + b"[]," * 4_000_000 + b"[]]"):
            (folder / "manifest.json").write_bytes(text)
            del text
            before = before or now_mb()
            try:
                manifest.load(folder)
            except CorruptState as error:
                assert "cannot be read" in str(error)
            else:
                raise AssertionError("it was read")
    """,
    "an object that says it unpacks to a gigabyte, and does": """
        import hashlib
        import zstandard
        from esper.errors import CorruptState
        from esper.leyline.objects import ObjectStore

        pack = zstandard.ZstdCompressor().compressobj(size=2**30)
        stored, digest, zeros = b"", hashlib.sha256(), bytes(2**20)
        for _ in range(2**10):
            stored += pack.compress(zeros)
            digest.update(zeros)
        stored += pack.flush()
        name = digest.hexdigest()
        (folder / name[:2]).mkdir()
        (folder / name[:2] / f"{name[2:]}.zst").write_bytes(stored)
        before = now_mb()
        try:
            ObjectStore(folder).get(f"sha256:{name}")
        except CorruptState as error:
            assert "which nothing of ours does" in str(error)
        else:
            raise AssertionError("it was read")
    """,
    "a fork that says a billion facts were before it": """
        from esper.record.run_status import Ledger

        before = mb()
        ledger = Ledger.after(10**9).appended(b"a")
        assert (ledger.id_of(10**9), ledger.id_of(10**9 + 1), ledger.id_of(10**9 + 2)) == (b"", b"a", None)
        cut = ledger.cut(5).appended(b"b")
        assert (cut.id_of(5), cut.id_of(6), cut.id_of(7), ledger.id_of(10**9 + 1)) == (b"", b"b", None, b"a")
    """,
    "JSON that is nested a million times": """
        from esper.errors import CorruptState, InvalidInput
        from esper.leyline.json_text import parsed
        from esper.leyline.objects import ObjectStore
        from esper.tolaria.config import RunConfig
        from esper.record.content import tensor_digests

        deep = b"[" * 1_000_000
        before = now_mb()
        store = ObjectStore(folder)
        assert tensor_digests(store, store.put(deep)) == {}
        for wrong in (lambda: RunConfig.from_json(deep.decode()), lambda: parsed(bytes(2**24))):
            try:
                wrong()
            except (InvalidInput, ValueError):
                pass
            else:
                raise AssertionError("it was read")
    """,
}
"""What is done in a child of its own, which says how much its memory grew from `before` on."""

CHILD = """
import json, resource, sys, textwrap
from pathlib import Path

def mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def now_mb():
    # what was taken to make the bomb does not count: the peak begins anew
    Path("/proc/self/clear_refs").write_text("5")
    return mb_peak()

def mb_peak():
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

mb = mb_peak
names = {"mb": mb, "now_mb": now_mb, "before": 0, "folder": Path(sys.argv[2])}
exec(compile(textwrap.dedent(sys.argv[1]), "bomb", "exec"), names)
print(json.dumps(mb() - names["before"]))
"""


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_bomb_takes_the_memory(bomb, tmp_path):
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, BOMBS[bomb], str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert json.loads(done.stdout.splitlines()[-1]) < MOST_MB
