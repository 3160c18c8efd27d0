"""What readers remember of an archive: written where it says something new, by nobody else, and never needed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from projections import manifest, open_history, verify
from projections.archive_writer import Archive


@pytest.fixture
def archive(tmp_path: Path, any_record) -> Path:
    with Archive(tmp_path) as archive:
        archive.append([any_record("decision_made", 0)])
        archive.append([any_record("decision_made", 1)])
    return tmp_path


def written(archive: Path) -> tuple[int, int]:
    """What changes when the cache is written: it is another file then."""
    status = (archive / "verified.json").stat()
    return status.st_ino, status.st_mtime_ns


def test_who_learns_nothing_new_writes_nothing(archive):
    """Neither another reader, nor a check of every byte, nor a refresh; whoever learns something does write."""
    with open_history(archive) as first:
        before = written(archive)
        with open_history(archive) as second:
            second.refresh()
            verify.damaged(archive, second.manifest.files, trust_cache=False)
        assert written(archive) == before
        (archive / "verified.json").unlink()
        verify.damaged(archive, first.manifest.files)

        assert len(json.loads((archive / "verified.json").read_bytes())) == 2


def test_what_another_reader_remembered_meanwhile_stays(archive):
    """Two readers that began with the same cache and each read one of two files know both afterwards."""
    with open_history(archive) as history:
        one, other = history.manifest.files
    (archive / "verified.json").unlink()
    verify.damaged(archive, [other], progress=lambda _entry: verify.damaged(archive, [one]) and None)

    assert set(json.loads((archive / "verified.json").read_bytes())) == {one.name, other.name}


def test_threads_that_remember_at_once_leave_one_whole_cache(archive):
    with open_history(archive) as history:
        entries = history.manifest.files
    begin = threading.Barrier(8)

    def look() -> None:
        begin.wait()
        for _ in range(20):
            (archive / "verified.json").unlink(missing_ok=True)
            verify.damaged(archive, entries)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verify.damaged(archive, entries)

    assert set(json.loads((archive / "verified.json").read_bytes())) == {entry.name for entry in entries}
    assert [path.name for path in archive.iterdir() if path.name.startswith(".verified")] == []


@pytest.mark.parametrize("content", [b"[]", b"null", b"{", b"\xff"])
def test_a_cache_that_is_none_is_made_anew(archive, content):
    (archive / "verified.json").write_bytes(content)
    with open_history(archive) as history:
        assert history.execute("SELECT count(*) FROM decisions").fetchone() == (2,)

    assert len(json.loads((archive / "verified.json").read_bytes())) == 2


@contextmanager
def without_the_rights_of_root() -> Iterator[None]:
    """Root writes everywhere, whatever a folder says."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_folder_is_read_without_a_word(archive, capfd, caplog):
    with open_history(archive) as history:  # whatever is imported late is imported by now: nobody may read Python's own
        history.execute("SELECT count(*) FROM decisions")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "archive"
        shutil.copytree(archive, folder, ignore=shutil.ignore_patterns("verified.json"))
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        with without_the_rights_of_root():
            assert not os.access(folder, os.W_OK, effective_ids=True)
            with open_history(folder) as history:
                assert history.execute("SELECT count(*) FROM decisions").fetchone() == (2,)
                assert not history.refresh()
        folder.chmod(0o755)

        assert not (folder / "verified.json").exists()
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []


@pytest.mark.parametrize("numbers", [0, 2, 3, 9])
def test_what_another_esper_remembered_is_looked_at_again(archive, numbers):
    """An older one remembers three numbers of each file and not when it looked."""
    with open_history(archive) as history:
        entries = history.manifest.files
    cache = archive / "verified.json"
    found = json.loads(cache.read_bytes())
    cache.write_text(json.dumps({name: (each * 3)[:numbers] for name, each in found.items()}))

    assert verify.damaged(archive, entries) == []
    assert json.loads(cache.read_bytes()).keys() == found.keys()
    assert all(each[:3] == found[name][:3] for name, each in json.loads(cache.read_bytes()).items())


def test_of_files_that_are_looked_at_together_only_the_wrong_ones_are_left_out(tmp_path, any_record):
    """In a folder whose name DuckDB would take for a pattern: a file that is none, one that says more rows, and two."""
    folder = tmp_path / "[a]*?"
    with Archive(folder) as archive:
        for offset in range(4):
            archive.append([any_record("decision_made", offset)])
        none, more, *_ = archive.manifest.files
    content = b"PAR1 and no more"
    (folder / manifest.FILES / none.name).write_bytes(content)
    changed = {
        none.name: replace(none, sha256=hashlib.sha256(content).hexdigest(), size=len(content)),
        more.name: replace(more, rows=2),
    }
    held = manifest.load(folder)
    manifest.save(folder, replace(held, files=tuple(changed.get(each.name, each) for each in held.files)))

    with open_history(folder) as history:
        found = {damage.name: damage.problem.partition(" (")[0] for damage in history.damage}
        assert found == {none.name: "is no Parquet file", more.name: "holds 1 rows, and the manifest says 2"}
        assert history.execute("SELECT count(*) FROM log.decision_made").fetchone() == (2,)
    assert set(json.loads((folder / "verified.json").read_bytes())) == {each.name for each in held.files[2:]}
