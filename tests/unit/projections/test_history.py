"""SQL over the archive: the views, what makes them new, and what damage does to them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from projections import columns, manifest, open_history, open_sample, verify, views
from projections.archive_writer import Archive
from projections.testing import LogOfRecords, Trainers
from projections.views import VIEWS

PROMISED = {
    "runs": {
        "run_id",
        "status",
        "task",
        "policy",
        "epochs_done",
        "test_accuracy",
        "test_metric",
        "reason",
        "started_at",
    },
    "epochs": {
        "run_id",
        "epoch",
        "step",
        "probe_loss",
        "probe_accuracy",
        "probe_metric",
        "surviving",
        "timeline",
        "event_id",
    },
    "policies": {"policy_version", "state", "passed", "reason", "said_by", "weights_ref"},
    "alerts": {"alert_id", "rule", "run_id", "fired_at", "cleared_at", "delivered", "failed", "said_by"},
    "slos": {"slo", "kind", "objective", "asked", "bad", "budget", "budget_left", "burn_1h", "spent_1d", "burning"},
    "gains": {"run_id", "random_seed", "metric", "gain_over_control", "gain_over_static", "metric_direction"},
    "metrics": {"run_id", "epoch", "measured_on", "name", "unit", "direction", "value", "main", "surviving"},
    "decisions": {"run_id", "epoch", "policy", "chosen", "actions", "reason", "packet_id", "command_id"},
    "commands": {"run_id", "command_id", "operation", "seed_id", "outcome", "rejected_reason", "issued_by"},
    "transitions": {"run_id", "seed_id", "from_stage", "to_stage", "reason", "step", "surviving"},
    "gates": {"run_id", "seed_id", "gate", "passed", "measurements", "surviving"},
    "seeds": {"run_id", "seed_id", "site", "stage", "blueprint_id", "life", "since_epoch"},
    "growth": {"run_id", "change", "seed_id", "site", "blueprint_id", "units", "opened_slot", "epoch", "surviving"},
    "reports": {"run_id", "seed_id", "blueprint_id", "outcome", "metrics"},
    "checkpoints": {"run_id", "ref", "step", "kept", "reason", "surviving"},
    "telemetry": {"run_id", "step", "seed_id", "name", "value", "unit"},
    "hooks": {"run_id", "epoch", "latency_ms", "assembly_ms", "decision_ms", "command_ms", "acknowledgement_ms"},
    "events": {"run_id", "body", "step", "event_id", "causation_id", "topic", "partition", "offset", "raw"},
    "blueprint_outcomes": {"blueprint_id", "shape_kind", "shape", "germinated", "fossilized", "culled", "mean_delta"},
    "approvals": {"blueprint_id", "approved", "said_by", "why", "holds"},
    "artifacts": {"blueprint_id", "version", "state", "form", "shape", "eager_us", "compiled_us", "artifact_ref"},
}


def columns_of(history, view: str) -> dict[str, str]:
    return {row[0]: row[1] for row in history.connection.execute(f"DESCRIBE {view}").fetchall()}


def test_every_promised_view_is_there():
    assert set(VIEWS) == set(PROMISED)


def test_an_empty_archive_has_every_view(tmp_path: Path, opened):
    """Without rows, and with the columns and types that it has later; of the objectives nothing is asked yet."""
    with open_history(tmp_path / "nothing") as empty:
        for view in VIEWS:
            asked = " WHERE asked > 0" if view == "slos" else ""
            assert empty.execute(f"SELECT * FROM {view}{asked}").fetchall() == [], view
            found = columns_of(empty, view)
            assert found == columns_of(opened, view), view
            assert found.keys() >= PROMISED[view], view


ASKED_ELSEWHERE = ("approvals", "artifacts", "gains", "policies", "hooks")
"""Views without a run, of runs in pairs, or of what only trainers measure: the small history has none."""


@pytest.mark.parametrize("view", [view for view in VIEWS if view not in ASKED_ELSEWHERE])
def test_every_view_has_rows(view, opened):
    assert opened.execute(f"SELECT * FROM {view} LIMIT 3").fetchall()


def test_values_are_readable(opened):
    """Stages and gates by name, ids in their text form, times as times."""
    row = opened.execute("SELECT from_stage, to_stage, event_id, recorded_at FROM transitions ORDER BY ALL").fetchone()
    gates = opened.execute("SELECT DISTINCT gate FROM gates ORDER BY gate LIMIT 1").fetchone()

    assert row[:2] == ("BLENDING", "SHADOWING")
    assert len(row[2]) == 36
    assert row[3].year == 2025
    assert gates == ("G0_SANITY",)


def test_the_parts_of_every_hook_are_its_latency():
    """And the view is what the trainers said, a row a hook."""
    with open_sample() as history:
        hooks = "SELECT count(*), count(DISTINCT event_id), max(abs(latency_ms - assembly_ms - decision_ms - command_ms"
        found = history.execute(f"{hooks} - acknowledgement_ms)) FROM hooks").fetchone()
        said = history.execute("SELECT count(*) FROM telemetry WHERE name = 'tolaria.epoch_hook.latency_ms'").fetchone()

    assert found == (said[0], said[0], 0.0)
    assert said[0] > 100


def test_events_are_as_many_as_were_archived(opened):
    archived = sum(manifest.load(opened.archive).rows(table) for table in columns.BODIES)

    assert opened.execute("SELECT count(*) FROM events").fetchone() == (archived,)


def test_a_newer_manifest_is_noticed(tmp_path: Path, any_record):
    with Archive(tmp_path) as archive, open_history(tmp_path) as history:
        assert not history.refresh()
        archive.append([any_record("decision_made", 0)])

        assert history.execute("SELECT count(*) FROM decisions").fetchone() == (1,)
        assert not history.refresh()
        archive.append([any_record("decision_made", 1)])
        assert history.refresh()
        assert history.connection.execute("SELECT count(*) FROM decisions").fetchone() == (2,)


def test_an_answer_is_still_there_once_all_views_were_made():
    """As the notebooks read it: `connection` makes what is missing beside the query's answer, not in its place."""
    with open_sample() as history:
        history.execute("SELECT count(*) FROM gates WHERE run_id = 'none'")

        assert history.connection.fetchall() == [(0,)]


def test_a_reader_of_the_old_manifest_keeps_its_rows(tmp_path: Path, any_record):
    """While files are merged and replaced beneath it."""
    with Archive(tmp_path) as archive, open_history(tmp_path) as history:
        for flush in range(3):
            archive.append([any_record("decision_made", flush)])
        history.refresh()
        from projections.compaction import merge, plan

        (job,) = plan(archive.manifest, merge_at=3)
        proposal = merge(tmp_path, job)
        archive.swap(proposal.inputs, proposal.merged, now_s=0.0)

        assert history.connection.execute("SELECT count(*) FROM decisions").fetchone() == (3,)
        history.refresh()
        archive.delete_retired(1e9)
        assert history.connection.execute("SELECT count(*) FROM decisions").fetchone() == (3,)


def damage(path: Path) -> None:
    """Flip one bit in the middle, where DuckDB would not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [damage, Path.unlink, lambda path: path.write_bytes(b"PAR1")])
def test_a_damaged_file_is_named_and_the_rest_is_readable(harm, tmp_path: Path, any_record, caplog):
    with Archive(tmp_path) as archive:
        for flush in range(3):
            archive.append([any_record("decision_made", flush), any_record("run_resumed", flush)])
        bad = tmp_path / "files" / archive.manifest.of("decision_made")[1].name
    harm(bad)

    with caplog.at_level(logging.WARNING), open_history(tmp_path) as history:
        assert [found.path for found in history.damage] == [bad]
        assert str(bad) in caplog.text
        assert "its 1 rows of decision_made are left out" in str(history.damage[0])
        assert history.execute("SELECT log_offset FROM decisions ORDER BY ALL").fetchall() == [(0,), (2,)]
        assert history.execute("SELECT count(*) FROM log.run_resumed").fetchone() == (3,)
        assert not history.refresh()


def test_a_run_that_lost_facts_with_a_file_is_no_whole_one(tmp_path: Path):
    """The facts that are left were regular when they came; without those of the file they are not any more."""
    run = Trainers("run")
    run.train(0)
    run.complete_epoch(0)
    run.finish(0)
    with Archive(tmp_path) as archive:
        archive.append(LogOfRecords().place(run.events))
        bad = tmp_path / "files" / archive.manifest.of("epoch_completed")[0].name
    sound = bad.read_bytes()
    problems = "SELECT run_id, problem, sequence FROM stops"
    with open_history(tmp_path) as history:
        assert history.execute(problems).fetchall() == []
    bad.unlink()

    with open_history(tmp_path) as history:
        assert history.execute(problems).fetchall() == [("run", "gap", 4)]
    bad.write_bytes(sound)
    with open_history(tmp_path) as history:
        assert history.execute(problems).fetchall() == []


def test_sound_files_are_hashed_once(tmp_path: Path, any_record, monkeypatch):
    """The second reader trusts size, time and inode; a full check reads every byte again."""
    with Archive(tmp_path) as archive:
        archive.append([any_record("decision_made", 0)])
        entries = archive.manifest.files
    assert verify.damaged(tmp_path, entries) == []
    hashed = []
    monkeypatch.setattr(verify, "_problem", lambda _, entry: hashed.append(entry.name))

    verify.damaged(tmp_path, entries)
    assert hashed == []
    verify.damaged(tmp_path, entries, trust_cache=False)
    assert hashed == [entries[0].name]


def test_damage_that_keeps_size_and_time_is_found_by_a_full_check(tmp_path: Path, any_record):
    with Archive(tmp_path) as archive:
        archive.append([any_record("decision_made", 0)])
        entries = archive.manifest.files
    path = tmp_path / "files" / entries[0].name
    verify.damaged(tmp_path, entries)
    status = path.stat()
    damage(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert verify.damaged(tmp_path, entries) == []
    (found,) = verify.damaged(tmp_path, entries, trust_cache=False)
    assert found.problem == "its bytes do not match their checksum"


def test_a_folder_that_cannot_be_written_is_read_all_the_same(tmp_path: Path, any_record):
    with Archive(tmp_path) as archive:
        archive.append([any_record("decision_made", 0)])
    (tmp_path / "verified.json").mkdir()

    with open_history(tmp_path) as history:
        assert history.execute("SELECT count(*) FROM decisions").fetchone() == (1,)


def test_files_of_an_older_shape_are_read(tmp_path: Path, any_record):
    """A body that has gained a field since: its older rows have null there."""
    with Archive(tmp_path) as archive:
        archive.append([any_record("decision_made", 0)])
        archive.append([any_record("decision_made", 1)])
        old, new = archive.manifest.files
    import duckdb

    path = tmp_path / "files" / old.name
    content = duckdb.sql(f"SELECT * EXCLUDE (value_estimate) FROM read_parquet('{path}')").to_arrow_table()
    import pyarrow.parquet as pq

    pq.write_table(content, path)
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    kept = manifest.load(tmp_path)
    manifest.save(tmp_path, replace(kept, files=(replace(old, shape="older", sha256=digest), new), generation=9))

    with open_history(tmp_path) as history:
        found = history.execute("SELECT log_offset, value_estimate IS NULL FROM decisions ORDER BY ALL").fetchall()
        assert found == [(0, True), (1, False)]
        assert history.execute("SELECT count(*) FROM events").fetchone() == (2,)


def test_invalid_records_can_be_asked_for(tmp_path: Path, any_record):
    with Archive(tmp_path) as archive:
        archive.append([replace(any_record("decision_made", 0), value=b"junk")])

    with open_history(tmp_path) as history:
        assert history.execute("SELECT log_raw, log_offset FROM log.invalid").fetchall() == [(b"junk", 0)]


def test_repeated_events_are_one_row_and_two_records(tmp_path: Path, any_record):
    """An identical redelivery: decisions know the event once, the log held it twice."""
    first = any_record("decision_made", 0)
    with Archive(tmp_path) as archive:
        archive.append([first, replace(first, offset=1), any_record("decision_made", 2)])

    with open_history(tmp_path) as history:
        assert history.execute("SELECT log_offset FROM decisions ORDER BY ALL").fetchall() == [(0,), (2,)]
        assert history.execute("SELECT count(*) FROM events").fetchone() == (3,)


def test_reading_needs_no_arrow_and_no_torch(small_history: Path):
    """The command starts fast: neither is imported to open and query a history."""
    program = (
        "import sys; from pathlib import Path; from projections import open_history; "
        f"print(open_history(Path({str(small_history)!r})).execute('SELECT count(*) FROM runs').fetchone()[0]); "
        "print({'torch', 'pyarrow', 'faust', 'ptars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[:2] == ["5", "set()"]


def test_a_query_that_needs_more_memory_leaves_nothing_in_the_current_folder(tmp_path, monkeypatch):
    """DuckDB's own choice is `.tmp` there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(views.tempfile, "gettempdir", lambda: str(tmp_path / "system"))
    (tmp_path / "system").mkdir()
    with open_sample() as history:
        history.execute("SET memory_limit = '60MB'; SET threads = 1")
        count = "count(*) from (select range, hash(range) from range(4000000) order by 2)"
        assert history.execute(f"select {count}").fetchall() == [(4_000_000,)]
        history.execute("select 1")
        assert [path.name for path in tmp_path.iterdir()] == ["system"]


@pytest.mark.parametrize(("size", "footer"), [(1_000, 2**32 - 1), (64 * 2**20, 32 * 2**20)], ids=["beyond", "huge"])
def test_a_footer_that_lies_about_its_size_is_left_out_before_it_is_read(tmp_path, any_record, size, footer):
    """The file of somebody else, whose checksum is right: a reader would take all that the last bytes name."""
    with Archive(tmp_path) as archive:
        archive.append([any_record("decision_made", 0)])
    with open_history(tmp_path) as history:
        entry = history.manifest.files[0]
        path = tmp_path / "files" / entry.name
        path.write_bytes(b"")
        with path.open("r+b") as file:
            file.truncate(size)
            file.seek(size - 8)
            file.write(footer.to_bytes(4, "little") + b"PAR1")

        found = history.unpacks_to_more([replace(entry, size=size)])

    assert list(found) == [entry.name]
    assert f"its footer has {footer} bytes" in found[entry.name]
