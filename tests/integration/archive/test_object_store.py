"""An archive in an object store: a real S3 client against a server of its protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.errors import InvalidInput
from projections import open_history
from projections.addresses import Folder
from projections.archive_writer import Archive
from projections.testing import LogOfRecords, Trainers
from projections.transfer import Mirror, transfer
from projections.wholeness import examine

COUNT = "SELECT count(*) FROM log.every"


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
