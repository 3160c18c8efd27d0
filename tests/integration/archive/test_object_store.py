"""An archive in an object store: a real S3 client against a server of its protocol."""

from __future__ import annotations

import secrets
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.errors import InvalidInput
from projections import open_history
from projections.archive_writer import Archive
from projections.testing import LogOfRecords, Trainers
from projections.transfer import Folder, Mirror, transfer
from projections.wholeness import examine

COUNT = "SELECT count(*) FROM log.every"


@pytest.fixture
def store(tmp_path, monkeypatch) -> Iterator:
    """An S3 server, and the environment that docs/archive.md names for it."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "esper")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "esper")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def bucket(store) -> str:
    """A bucket of the test's own: the server's stores live as long as the process."""
    host, port = store.get_host_and_port()
    name = f"esper-{secrets.token_hex(4)}"
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/{name}", method="PUT")).close()
    return name


@pytest.fixture
def archive(tmp_path) -> Path:
    """An archive of one run: start, a fact, end; a file for each."""
    run = Trainers("k3f9x2qa")
    run.train(0)
    run.finish(0)
    with Archive(tmp_path / "archive") as owned:
        owned.append(LogOfRecords().place(run.events))
    return tmp_path / "archive"


def test_an_archive_in_an_object_store(bucket, archive):
    here, there = Folder.at(archive), Folder.at(f"s3://{bucket}/esper")

    done = transfer(here, there, 0.0)

    assert (done.copied, done.kept, done.damage) == (3, 0, ())
    assert transfer(here, there, 0.0).copied == 0
    with open_history(f"s3://{bucket}/esper") as history:
        assert history.execute(COUNT).fetchone() == (3,)
        assert examine(history, there) == []
    there.write(f"files/{done.manifest.files[0].name}", b"PAR1")
    with open_history(f"s3://{bucket}/esper") as history:
        assert next(each.kind for each in examine(history, there)) == "file"


def test_a_bucket_misspelt_is_not_made(store, archive):
    import s3fs

    with pytest.raises(FileNotFoundError, match="there is no bucket 'bucke-misspelt'"):
        transfer(Folder.at(archive), Folder.at("s3://bucke-misspelt/esper"), 0.0)
    assert not s3fs.S3FileSystem().exists("bucke-misspelt")


def test_a_store_that_is_gone_is_one_line(store, bucket, archive):
    transfer(Folder.at(archive), Folder.at(f"s3://{bucket}/esper"), 0.0)
    store.stop()

    with pytest.raises(InvalidInput, match=rf"^the archive at s3://{bucket}/esper cannot be read: [^\n]*$"):
        Mirror(f"s3://{bucket}/esper", lambda: 0.0).refresh()
