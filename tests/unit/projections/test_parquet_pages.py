"""What a Parquet file's pages say is what counts, and not what its footer says of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from projections import open_history
from projections.archive_writer import Archive
from projections.history import FOOTER_BYTES
from projections.manifest import FILES
from projections.parquet_pages import Chunk, unpacked_bytes

_FEW: bytes = bytes([0x15, 0x02, 0x49, 0xFC])
EMPTY_GROUPS = b"PAR1" + _FEW + b"\xd0\x8c\x1f" + bytes(509_520)
EMPTY_GROUPS += b"\x00" + (len(EMPTY_GROUPS) - 3).to_bytes(4, "little") + b"PAR1"
"""A file that is a footer, half a megabyte of columns that say nothing: a reader takes 420 bytes for each."""


def varint(value: int, size: int = 0) -> bytes:
    """A number as Thrift's compact protocol has it, in at least `size` bytes."""
    value, out = 2 * value, bytearray()
    while value > 0x7F or len(out) < size - 1:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def saying(content: bytes, what: int, instead: int) -> bytes:
    """A Parquet file whose footer has another number wherever it has this one; all stays in its place."""
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    assert varint(what) in content[at:]
    return content[:at] + content[at:].replace(varint(what), varint(instead, len(varint(what))))


def lying(table, tmp_path, **said):
    """What is said of a file that holds `table` and whose footer has other numbers for these of its first chunk."""
    path = tmp_path / "written"
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**20, data_page_size=2**16)
    chunk, content = pq.read_metadata(path).row_group(0).column(0), path.read_bytes()
    for name, instead in said.items():
        content = saying(content, getattr(chunk, name), instead)
    with open_history(tmp_path) as history:
        entry = history.manifest.files[0]
        (tmp_path / FILES / entry.name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        mended = replace(entry, rows=table.num_rows, size=len(content), sha256=digest)
        return history.unpacks_to_more([mended]).get(entry.name)


@pytest.fixture
def archive(tmp_path, any_record):
    with Archive(tmp_path) as archive:
        archive.append([any_record("decision_made", 0)])
    return tmp_path


ZEROS = pa.table({"log_raw": [bytes(2**24)] * 4})
NUMBERS = pa.table({"log_offset": pa.array(range(70_000), pa.int64())})


@pytest.mark.parametrize(
    ("table", "said", "problem"),
    [
        (ZEROS, {}, "which no file of events does"),
        (ZEROS, {"total_uncompressed_size": 1_000}, "which no file of events does"),
        (NUMBERS, {}, None),
        (NUMBERS, {"total_compressed_size": 200_000}, "cannot be unpacked"),
    ],
    ids=["honest bomb", "lying bomb", "honest", "shorter chunk"],
)
def test_what_the_pages_say_counts_and_not_what_the_footer_says(archive, table, said, problem):
    found = lying(table, archive, **said)

    assert (found is None) is (problem is None)
    assert problem is None or problem in found


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_chunk_that_is_no_such_chunk_is_refused(tmp_path, dictionary):
    """A reader reads on behind it as far as it is promised values, and takes room for a dictionary before it has it."""
    path = tmp_path / "written"
    pq.write_table(NUMBERS, path, compression="zstd", use_dictionary=dictionary, data_page_size=2**14)
    told = pq.read_metadata(path).row_group(0).column(0)
    chunk = Chunk(told.num_values, told.total_compressed_size, told.data_page_offset, told.dictionary_page_offset)
    size = path.stat().st_size

    assert unpacked_bytes(path, [chunk]) == told.total_uncompressed_size
    assert unpacked_bytes(path, [chunk, chunk]) == 2 * told.total_uncompressed_size
    for wrong, said in (
        (chunk._replace(values=chunk.values - 1), f"hold {chunk.values} values"),
        (chunk._replace(values=chunk.values + 1), f"hold {chunk.values} values"),
        (chunk._replace(packed=0), "hold 0 values"),
        (chunk._replace(packed=size), "is not in it"),
        (chunk._replace(data_at=-5, dictionary_at=None), "is not in it"),
        (chunk._replace(data_at=1, dictionary_at=None), "page"),
    ):
        with pytest.raises(ValueError, match=said):
            unpacked_bytes(path, [wrong])
    if dictionary:
        content = path.read_bytes()
        at = content.index(bytes([0x4C, 0x15]), chunk.begins_at)  # the dictionary's header and, in it, its values
        (path.parent / "more").write_bytes(content[: at + 2] + b"\xfe\xff\x7f" + content[at + 5 :])
        with pytest.raises(ValueError, match="a dictionary says that it has 1048575 values"):
            unpacked_bytes(path.parent / "more", [chunk])


def test_a_footer_of_nothing_but_beginnings_is_not_larger_than_it_may_be():
    assert len(EMPTY_GROUPS) <= FOOTER_BYTES
