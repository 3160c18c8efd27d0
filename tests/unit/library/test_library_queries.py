"""The catalogue: what the log said of a version comes back whole, and queries find what they should and no more."""

from __future__ import annotations

import dataclasses
import threading
import time

import duckdb
import pytest

from contracts.leyline.v1 import event_pb2 as pb
from contracts.leyline.v1 import leyline_pb2 as lp
from esper.leyline.signing import KeyRing
from esper.urza.version import Place, Query
from projections.library import Library


def found(library, **query):
    return [each.artifact_ref.removeprefix("sha256:") for each in library.reader().find(Query(**query))]


@pytest.mark.requirement("R-URZA-1")
def test_what_the_log_said_of_a_version_comes_back(news, fold):
    """R-URZA-1."""
    news.registered()
    news.stored()
    news.say(
        lp.BSDSIssued(bsds=lp.BSDS(version=1, blueprint_id="BP009", risk_score=0.5, hazard_band=2, handling_class=1))
    )

    (version,) = fold(news.records).reader().find(Query())

    assert (version.artifact_ref, version.blueprint_id, version.version) == ("sha256:BP009-1", "BP009", 1)
    assert (version.checksum, version.guard_digest, version.bytes, version.form) == ("c", "g", 100, "eager")
    assert (version.compile_ms, version.prewarm_p50_ms, version.stored_at_ms) == (12.0, 0.5, 1_003)
    assert version.place == Place.of("vector", [4], {"depth": 2.0})
    assert (version.name, version.tier, version.stage, version.tags) == ("bp009", 1, 1, ("residual", "mlp"))
    assert (version.risk, version.hazard_band, version.handling_class) == (0.5, 2, 1)
    assert (version.is_approved, version.quarantine_only, version.state) == (True, False, "active")


@pytest.mark.requirement("R-URZA-2")
def test_a_stored_version_is_never_modified(news, fold):
    """R-URZA-2: neither by another event that names it, nor by a later version."""
    news.registered()
    news.stored(1)
    news.say(pb.ArtifactStored(blueprint_id="BP009", artifact_ref="sha256:BP009-1", artifact_version=7, checksum="x"))
    news.stored(2)

    first, second = sorted(fold(news.records).reader().find(Query(older=True)), key=lambda each: each.version)

    assert (first.version, first.checksum, first.state) == (1, "c", "deprecated")
    assert (second.version, second.state) == (2, "active")


def test_versions_for_different_sites_and_settings_stand_beside_each_other(news, fold):
    news.registered()
    for version, (width, depth) in enumerate([(4, 2.0), (8, 2.0), (4, 3.0)], start=1):
        news.stored(version, width=width, depth=depth)
    library = fold(news.records)

    assert found(library) == ["BP009-3", "BP009-2", "BP009-1"]
    assert found(library, place=Place.of("vector", [8], {"depth": 2.0})) == ["BP009-2"]
    assert found(library, place=Place.of("vector", [8], {"depth": 3.0})) == []
    assert found(library, place=Place.of("token", [8], {"depth": 2.0})) == []


@pytest.mark.requirement("R-URZA-13")
def test_queries_by_id_tier_stage_and_tag(news, fold):
    """R-URZA-13."""
    for number, (risk, stage, tags) in enumerate([(0.3, 1, ["conv", "Wide"]), (0.1, 2, ["conv"]), (0.2, 2, ["MLP"])]):
        blueprint = f"BP00{number}"
        news.registered(blueprint, risk=risk, stage=stage, tags=tags)
        news.stored(1, blueprint)
    library = fold(news.records)

    assert found(library) == ["BP001-1", "BP002-1", "BP000-1"]  # the lowest risk first
    assert found(library, blueprint_id="BP002") == ["BP002-1"]
    assert found(library, tier=1, stage=2) == ["BP001-1", "BP002-1"]
    assert found(library, tier=2) == []
    assert found(library, tags=("CONV",)) == ["BP001-1", "BP000-1"]
    assert found(library, tags=("conv", "wide")) == ["BP000-1"]
    assert found(library, tags=("wide", "mlp"), match_tags="any") == ["BP002-1", "BP000-1"]
    assert found(library, limit=1) == ["BP001-1"]
    assert library.reader().count() == 3


@pytest.mark.requirement("R-URZA-8")
def test_a_query_is_answered_in_time(news, fold):
    """In this thread's processor time, which does not depend on who else is at work; the bench has 10,000 versions."""
    for number in range(1, 11):
        news.registered(f"BP{number:03}", risk=number / 100)
        for version in range(1, 11):
            news.stored(version, f"BP{number:03}", width=version % 4 + 1)
    reader, took = fold(news.records).reader(), []
    for number in range(50):
        before = time.thread_time()
        answer = reader.find(Query(blueprint_id=f"BP{number % 10 + 1:03}"))
        took.append((time.thread_time() - before) * 1_000)
        assert len(answer) == 4
    took.sort()

    assert took[25] < 10
    assert took[47] < 200
    assert took[-1] < 500


@pytest.mark.requirement("R-URZA-14")
def test_only_what_anyone_may_use_is_found_unless_it_is_asked_for(news, fold):
    """R-URZA-14; a version whose blueprint nobody registered counts as one that needs an approval."""
    news.registered("BP036", tier=2, approval_required=True)
    news.registered("BP043", tier=3, approval_required=True, quarantine_only=True)
    for blueprint in ("BP036", "BP043", "BP099"):
        news.stored(1, blueprint)
    library = fold(news.records)

    assert found(library) == []
    assert found(library, unapproved=True) == ["BP036-1"]
    assert found(library, quarantine=True) == []
    assert set(found(library, quarantine=True, unapproved=True)) == {"BP036-1", "BP043-1", "BP099-1"}
    news.approved("BP036")
    assert found(fold(news.records)) == ["BP036-1"]


def test_a_withdrawn_approval_rejects_every_version(news, fold):
    news.registered(approval_required=True)
    news.approved()
    news.stored()
    assert found(fold(news.records)) == ["BP009-1"]
    news.approved(approved=False)

    library = fold(news.records)
    (version,) = library.reader().find(Query(unapproved=True, older=True))

    assert found(library) == []
    assert (version.state, version.is_approved, version.since_ms) == ("rejected", False, 1_005)


def test_an_older_version_that_a_run_attached_is_validated(news, fold):
    news.registered()
    first = news.stored(1)
    news.stored(2)
    news.attached(first)

    older = {each.version: each for each in fold(news.records).reader().find(Query(older=True))}

    assert (older[1].state, older[1].attachments, older[1].since_ms) == ("validated", 1, 1_006)
    assert (older[2].state, older[2].attachments) == ("active", 0)


def test_unsigned_forged_and_malformed_records_do_not_count(news, fold, ring):
    """A wrong signature on what names an artifact keeps that artifact out."""
    news.registered()
    known = len(news.records)
    news.stored()
    good = news.records[-1]
    forged = KeyRing((b"x" * 32,)).sign(good.value)
    headers = (("esper-key", forged.key_id.encode()), ("esper-signature", forged.signature))
    flipped = good.value[:-1] + bytes([good.value[-1] ^ 1])
    for value, with_headers in ((good.value, ()), (good.value, headers), (flipped, good.headers), (b"\xff", ())):
        bad = type(good)(good.topic, good.partition, good.offset, good.timestamp, good.key, value, with_headers)
        library = fold([*news.records[:known], *news.records[known:-1]])
        taken = library.take([bad])

        assert sum(taken.refused.values()) == 1
        assert found(library) == []


def test_an_event_on_a_topic_that_is_not_its_own_does_not_count(news, fold):
    news.registered()
    news.stored()
    stray = dataclasses.replace(news.records[-1], topic="esper.runs", offset=0)

    library = fold(news.records[:-1])

    assert library.take([stray]).refused == {"misplaced": 1}
    assert found(library) == []


def test_a_query_that_is_interrupted_raises_and_the_next_one_works(news, fold):
    news.registered()
    news.stored()
    reader = fold(news.records).reader()
    raised = []

    def count_for_ever():
        try:
            reader._connection.execute("SELECT count(*) FROM range(10000000000) t(i) WHERE i % 7 = 3").fetchall()
        except duckdb.InterruptException as error:
            raised.append(error)

    thread = threading.Thread(target=count_for_ever)
    thread.start()
    for _ in range(100):  # an interrupt that comes before the query has begun stops nothing
        reader.interrupt()
        thread.join(0.1)
        if raised:
            break

    assert raised
    assert len(reader.find(Query())) == 1


def test_another_process_gets_the_same_library_in_memory(news, tmp_path, ring, content, monkeypatch):
    """DuckDB lets one process have the file; within one process it lets everyone, so the refusal is made here."""
    news.registered()
    news.stored()
    connect = duckdb.connect

    def locked(path, **settings):
        if path != ":memory:":
            raise duckdb.IOException("Could not set lock on file: Conflicting lock is held")
        return connect(path, **settings)

    with Library(tmp_path / "urza.duckdb", ring) as first:
        first.take(news.records)
        monkeypatch.setattr(duckdb, "connect", locked)
        with Library(tmp_path / "urza.duckdb", ring) as second:
            second.take(news.records)
            assert content(second) == content(first)


@pytest.mark.parametrize("seal", ["of another key", "of the original", "none"])
def test_a_file_from_somebody_else_is_made_anew(news, tmp_path, ring, content, seal):
    """What is served from it is signed with the key of here, and a compiled kernel is code that others made."""
    news.registered()
    stranger, path = tmp_path / "theirs.duckdb", tmp_path / "urza.duckdb"
    with Library(path, ring):
        pass
    ours = (tmp_path / "urza.duckdb.seal").read_bytes()
    with Library(stranger, KeyRing((b"x" * 32,))) as library:
        library._ring = None
        library.take(news.records)
        assert library.next_offsets
    theirs = (tmp_path / "theirs.duckdb.seal").read_bytes()
    stranger.replace(path)
    seals = {"of another key": theirs, "of the original": ours, "none": b""}
    (tmp_path / "urza.duckdb.seal").write_bytes(seals[seal])

    for _ in range(2):
        with Library(path, ring) as library:
            assert library.next_offsets == {}
            assert not any(content(library)[0])
    with Library(path, ring) as library:
        library.take(news.records)
    with Library(path, ring) as library:
        assert library.next_offsets, "what is ours is kept"


@pytest.mark.parametrize("how", ["written over while closed", "written over after a kill", "replaced after a kill"])
def test_a_file_that_was_exchanged_is_made_anew_though_its_inode_is_the_same(news, tmp_path, ring, how):
    """`cp` writes into the file that is there, and ext4 gives a number again at once: the seal went by it alone."""
    news.registered()
    path = tmp_path / "urza.duckdb"
    seal = path.with_name("urza.duckdb.seal")
    with Library(path, ring) as library:
        library.take(news.records)
        killed = seal.read_bytes()
    seal.write_bytes(killed)
    theirs = path.read_bytes()  # older, which is as good as somebody else's
    with Library(path, ring) as library:
        assert library.next_offsets, "what is ours is kept, also after a kill"
        killed = seal.read_bytes()
    inode = path.lstat().st_ino
    if how.endswith("after a kill"):
        seal.write_bytes(killed)
    if how.startswith("written over"):
        path.write_bytes(theirs)
        assert path.lstat().st_ino == inode
    for _ in range(50 if how.startswith("replaced") else 0):
        path.unlink()
        path.write_bytes(theirs)
        if path.lstat().st_ino == inode:
            break

    with Library(path, ring) as library:
        assert library.next_offsets == {}


@pytest.mark.parametrize("damage", ["garbage", "other tables"])
def test_a_file_that_cannot_be_used_is_made_anew(news, tmp_path, ring, content, fold, damage):
    news.registered()
    news.stored()
    path = tmp_path / "urza.duckdb"
    if damage == "garbage":
        path.write_bytes(b"this is no database" * 1_000)
    else:
        with Library(path, ring) as older:
            older.take(news.records)
            older._connection.execute("UPDATE migrations SET digest = 'of another Esper'")

    with Library(path, ring) as library:
        assert library.next_offsets == {}
        library.take(news.records)
        assert content(library) == content(fold(news.records))
