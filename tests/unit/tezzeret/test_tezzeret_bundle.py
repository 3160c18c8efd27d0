"""What a compiled kernel is packed in: the same bytes for the same files, and nothing else comes out of it."""

from __future__ import annotations

import io
import zipfile

import pytest

from esper.errors import CorruptState
from esper.tezzeret.compiled import CACHE, MAX_BYTES, pack, unpack

KERNEL, PLAIN = "ab/cabc123.main.so", "q6/cq62.so"


@pytest.fixture
def made(tmp_path):
    """The compiler's folder, with what torch leaves there."""
    folder = tmp_path / "inductor"
    for name, content in ((KERNEL, b"kernel"), (PLAIN, b"plain"), ("ab/cabc123.main.cpp", b"source"), ("x.so", b"x")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def archive(**entries):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return content.getvalue()


def test_libraries_and_cache_come_out_as_they_went_in(made, tmp_path):
    other = tmp_path / "other"

    assert unpack(pack(b"cache", made), other) == b"cache"

    found = {path.relative_to(other).as_posix(): path.read_bytes() for path in other.rglob("*") if path.is_file()}
    assert found == {KERNEL: b"kernel", PLAIN: b"plain"}


def test_the_same_files_give_the_same_bytes(made):
    before = pack(b"cache", made)
    (made / KERNEL).touch()
    assert pack(b"cache", made) == before


def test_what_is_there_already_stays(made, tmp_path):
    packed = pack(b"cache", made)
    (made / KERNEL).write_bytes(b"loaded")
    unpack(packed, made)
    assert (made / KERNEL).read_bytes() == b"loaded"


@pytest.mark.parametrize("name", ["native/../../x.so", "/etc/x.so", "native/ab/x.py", "native/abc/x.so", "ab/x.so"])
def test_a_name_that_torch_does_not_give_is_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(CorruptState, match="does not hold"):
        unpack(archive(**{name: b"x", CACHE: b"cache"}), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no archive", archive(other=b"x"), archive()])
def test_what_is_no_archive_of_this_kind_is_refused(tmp_path, content):
    with pytest.raises(CorruptState):
        unpack(content, tmp_path)


def test_what_would_become_too_large_is_refused(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(CACHE, bytes(MAX_BYTES + 1))
    assert len(content.getvalue()) < MAX_BYTES / 100
    with pytest.raises(CorruptState, match="more than"):
        unpack(content.getvalue(), tmp_path)
