"""Merging: planned by level, the same rows afterwards, and no damage carried on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from projections import compaction, open_history
from projections.archive_writer import Archive
from projections.compaction import Job, job_from_line, job_to_line, merge, plan, proposal_from_line, proposal_to_line

WHOLE = "SELECT * EXCLUDE (log_headers), log_headers::VARCHAR FROM log.{} ORDER BY log_topic, log_partition, log_offset"


@pytest.fixture
def archive(tmp_path: Path, any_record) -> Iterator[Archive]:
    """An archive with 20 files of one type, of 3 rows each, and one of another."""
    with Archive(tmp_path) as owned:
        owned.append([any_record("adaptation_command", 0)])
        for flush in range(compaction.MERGE_AT):
            owned.append([any_record("epoch_completed", flush * 3 + row) for row in range(3)])
        yield owned


def content(archive: Archive, table: str) -> list[tuple]:
    with open_history(archive.folder) as history:
        assert not history.damage
        return history.connection.execute(WHOLE.format(table)).fetchall()


def test_twenty_files_of_a_level_are_merged(archive):
    (job,) = plan(archive.manifest)

    assert (job.table, job.level, len(job.inputs)) == ("epoch_completed", 1, compaction.MERGE_AT)
    assert plan(archive.manifest, leave={job.inputs[0].name}) == []


def test_a_merge_keeps_every_value(archive):
    """Nested columns, ids, bytes and times included."""
    before = content(archive, "epoch_completed")
    (job,) = plan(archive.manifest)

    proposal = merge(archive.folder, job)

    assert content(archive, "epoch_completed") == before
    assert archive.swap(proposal.inputs, proposal.merged, now_s=0.0)
    assert content(archive, "epoch_completed") == before
    assert [entry.level for entry in archive.manifest.of("epoch_completed")] == [1]
    assert archive.manifest.of("epoch_completed")[0].offsets == {("esper.runs", 0): (0, 60)}
    assert len(archive.manifest.retired) == compaction.MERGE_AT


def test_full_files_are_left_alone(archive, monkeypatch):
    monkeypatch.setattr(compaction, "FULL_ROWS", 3)

    assert plan(archive.manifest) == []


def test_a_damaged_file_is_not_merged(archive):
    """It is named, and the job comes to nothing: a merge would give it a checksum that holds."""
    (job,) = plan(archive.manifest)
    path = archive.folder / "files" / job.inputs[4].name
    spoilt = bytearray(path.read_bytes())
    spoilt[len(spoilt) // 2] ^= 1
    path.write_bytes(spoilt)

    proposal = merge(archive.folder, job)

    assert proposal.merged is None
    assert proposal.damaged == (job.inputs[4].name,)


def test_a_merge_in_its_own_process(archive):
    """One job a line in, one proposal a line out."""
    (job,) = plan(archive.manifest)

    done = subprocess.run(
        [sys.executable, "-m", "projections.compaction", str(archive.folder)],
        input=job_to_line(job),
        capture_output=True,
        text=True,
        check=True,
    )

    proposal = proposal_from_line(done.stdout)
    assert proposal.merged.rows == 60
    assert archive.swap(proposal.inputs, proposal.merged, now_s=0.0)


def test_jobs_and_proposals_survive_the_pipe(archive):
    (job,) = plan(archive.manifest)
    proposal = compaction.Proposal(frozenset({"a", "b"}), job.inputs[0], ("c",))

    assert isinstance(job_from_line(job_to_line(job)), Job)
    assert job_from_line(job_to_line(job)) == job
    assert proposal_from_line(proposal_to_line(proposal)) == proposal
