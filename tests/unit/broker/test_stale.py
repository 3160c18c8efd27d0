"""Files of the log that are lost, or restored from an older copy while it was stopped: alone, and in pairs.

Whatever is old, nothing acknowledged is lost by it without a word, no offset is given twice, and no batch of a new
producer is taken for the retry of an old one.
"""

from __future__ import annotations

import shutil
from itertools import combinations

import pytest

from contracts.topics import ARCHIVER_GROUP
from streams.broker.batch import checked
from streams.broker.registry import IDS_LEAP, Committed, TopicRow
from streams.broker.store import Store

DAY_MS = 86_400_000
MADE_ANEW = "esper.again"


class Desk:
    """A log that is opened, written to and closed again and again, with a copy of all its files from before."""

    def __init__(self, folder, batch_of):
        self.folder = folder
        self.older = folder.with_name("older")
        self.acknowledged = {}
        self._batch_of = batch_of
        self._sequence = {}
        self.store = Store(folder)

    def write(self, topic, count, *, producer):
        partition = self.store.partition(topic, 0)
        for _ in range(count):
            sequence = self._sequence.get((topic, producer), 0)
            value = f"{topic} {producer} {sequence}".encode().ljust(200, b".")
            records = self._batch_of(value, producer=(producer, 0, sequence))
            offset = partition.append(records, checked(records, 10_000), 1_000, 1024)
            assert (topic, offset) not in self.acknowledged, "an offset was given twice"
            self.acknowledged[topic, offset] = value
            self._sequence[topic, producer] = sequence + 1

    def create(self, topic):
        self.store.create(TopicRow(topic, 1, {"segment.bytes": "1024", "retention.ms": "-1"}))

    def close(self):
        self.store.close()

    def open(self):
        self.store = Store(self.folder)
        return self.store

    def copy(self):
        shutil.copytree(self.folder, self.older)

    def read(self, values_of, topic):
        partition = self.store.partition(topic, 0)
        found, offset = {}, partition.start
        while offset < partition.end:
            data = partition.read(offset, 1)
            if not data:
                break
            more = values_of(data)
            found |= {(topic, o): value for o, value in more if o >= offset}
            offset = max(offset, more[-1][0]) + 1
        return found


@pytest.fixture
def desk(tmp_path, batch_of):
    desk = Desk(tmp_path / "log", batch_of)
    yield desk
    desk.close()


def history(desk):
    """A log that is copied, and goes on: more records, a topic more, one deleted and made again, settings altered."""
    for topic in ("esper.runs", MADE_ANEW):
        desk.create(topic)
    first = desk.store.registry.new_producer_id()
    desk.write("esper.runs", 12, producer=first)
    desk.write(MADE_ANEW, 30, producer=first)
    desk.store.delete_before(MADE_ANEW, 0, 20)
    desk.store.registry.commit(
        ARCHIVER_GROUP, {("esper.runs", 0): Committed(10, None), (MADE_ANEW, 0): Committed(30, None)}
    )
    desk.close()
    desk.copy()
    desk.open()
    desk.store.delete(MADE_ANEW)
    desk.acknowledged = {key: value for key, value in desk.acknowledged.items() if key[0] != MADE_ANEW}
    desk.create(MADE_ANEW)
    desk.create("esper.new")
    for _ in range(2):
        later = desk.store.registry.new_producer_id()
        for topic in ("esper.runs", MADE_ANEW, "esper.new"):
            desk.write(topic, 12, producer=later)
    desk.store.registry.commit(ARCHIVER_GROUP, {("esper.runs", 0): Committed(36, None)})
    desk.close()
    return later


NOT_RECORDS = ["meta.db", "producer-ids", "cluster", "boot", "topic.json", "tail", "index"]
HARM = [(name, how) for name in NOT_RECORDS for how in ("lost", "older")]


def harm(desk, name, how):
    """Loses a file, or every file of a kind, or puts the older copy in its place where there was one."""
    pattern = f"**/*.{name}" if name == "index" else f"**/{name}"
    for path in desk.folder.glob(pattern):
        path.unlink()
    for path in desk.older.glob(pattern) if how == "older" else ():
        target = desk.folder / path.relative_to(desk.older)
        if target.parent.exists():
            shutil.copy(path, target)


@pytest.mark.parametrize(
    "harms",
    [pytest.param(each, id="+".join(f"{name}-{how}" for name, how in each)) for each in [(h,) for h in HARM]]
    + [
        pytest.param((a, b), id=f"{a[0]}-{a[1]}+{b[0]}-{b[1]}")
        for a, b in combinations(HARM, 2)
        if a[0] != b[0] and a[1] == b[1]
    ],
)
def test_no_acknowledged_record_is_lost_by_a_stale_file(desk, harms, values_of):
    last = history(desk)
    for each in harms:
        harm(desk, *each)
    desk.open()
    fresh = desk.store.registry.new_producer_id()
    for topic in ("esper.runs", MADE_ANEW, "esper.new"):
        desk.write(topic, 5, producer=fresh)
    found = {}
    for topic in ("esper.runs", MADE_ANEW, "esper.new"):
        found |= desk.read(values_of, topic)

    assert fresh > last
    assert found == desk.acknowledged
    assert all(c.next_offset <= desk.store.partition(*at).next_offset for at, c in positions(desk).items())


def positions(desk):
    return desk.store.registry.committed(ARCHIVER_GROUP)


@pytest.mark.parametrize("how", ["lost", "older"])
def test_the_registry_is_made_again_from_the_folders(desk, how, caplog):
    """Ids, partitions and settings come back; positions go back, and never forward into another topic of the name."""
    history(desk)
    desk.open()
    before = {name: topic.row for name, topic in desk.store.topics.items()}
    desk.close()
    harm(desk, "meta.db", how)
    desk.open()

    assert {name: topic.row for name, topic in desk.store.topics.items()} == before
    assert "topic esper.new is in its folder and not in the registry: it is taken up" in caplog.text
    assert positions(desk).get((MADE_ANEW, 0)) is None
    assert positions(desk).get(("esper.runs", 0)) == (Committed(10, None) if how == "older" else None)


def test_without_note_and_registry_a_topic_is_taken_up_and_deletes_nothing(desk, values_of, caplog):
    history(desk)
    for name in ("meta.db", "topic.json"):
        harm(desk, name, "lost")
    desk.open()
    desk.store.retain(10**15)

    assert desk.store.topics["esper.runs"].row.configs == {"retention.ms": "-1"}
    assert "keeps its records for ever" in caplog.text
    assert desk.read(values_of, "esper.runs").keys() == {key for key in desk.acknowledged if key[0] == "esper.runs"}


def test_clients_that_have_not_written_yet_keep_their_ids_to_themselves(desk):
    """An id that was given and is in no segment, and everything that counts ids is lost."""
    history(desk)
    desk.open()
    silent = [desk.store.registry.new_producer_id() for _ in range(5)]
    desk.close()
    for name in ("meta.db", "producer-ids"):
        harm(desk, name, "lost")
    desk.open()

    assert max(silent) < desk.store.registry.new_producer_id() <= max(silent) + 2 * IDS_LEAP


def test_a_foreign_producer_that_makes_up_a_great_id_leaves_ids_for_others(desk):
    desk.create("t")
    desk.write("t", 3, producer=2**63 - 1)
    desk.close()
    desk.open()

    assert 0 <= desk.store.registry.new_producer_id() < 2**61


def test_each_log_and_each_topic_has_an_id_that_stays(desk, tmp_path):
    desk.create("t")
    ids = desk.store.cluster_id, desk.store.topics["t"].row.id
    desk.close()
    desk.open()
    other = Store(tmp_path / "other")
    desk.store.delete("t")
    desk.create("t")

    assert (desk.store.cluster_id, len(ids[0])) == (ids[0], 22)
    assert desk.store.topics["t"].row.id != ids[1]
    assert other.cluster_id != ids[0]
    other.close()


def test_a_registry_of_another_log_moves_nothing_here(desk, tmp_path, values_of, caplog):
    """Its positions and its start of the log belong to other records."""
    history(desk)
    other = Store(tmp_path / "other")
    other.create(TopicRow("esper.runs", 1, {}))
    other.registry.set_log_start("esper.runs", 0, 30)
    other.registry.commit(ARCHIVER_GROUP, {("esper.runs", 0): Committed(36, None)})
    other.close()
    shutil.copy(tmp_path / "other" / "meta.db", desk.folder / "meta.db")
    desk.open()

    assert "meta.db is another log's" in caplog.text
    assert len(desk.read(values_of, "esper.runs")) == 36
    assert positions(desk) == {}


@pytest.mark.parametrize("what", ["segment", "partition", "topic"])
def test_records_restored_from_an_older_copy_are_named_and_no_offset_comes_twice(desk, values_of, caplog, what):
    """The registry, and the tail where it is left, know of more than the older segments hold."""
    history(desk)
    folder, older = (root / "topics" / "esper.runs" for root in (desk.folder, desk.older))
    if what == "segment":
        for path in (folder / "0").glob("*.log"):
            path.unlink()
        for path in (older / "0").glob("*.log"):
            shutil.copy(path, folder / "0")
    else:
        gone = folder if what == "topic" else folder / "0"
        shutil.rmtree(gone)
        shutil.copytree(older if what == "topic" else older / "0", gone)
    caplog.clear()
    desk.open()
    fresh = desk.store.registry.new_producer_id()
    desk.write("esper.runs", 3, producer=fresh)
    found = desk.read(values_of, "esper.runs")

    assert "offsets 12 to 35 are not there: a segment file is missing or older" in caplog.text
    assert sorted(offset for _, offset in found) == [*range(12), 36, 37, 38]


def test_a_lost_folder_of_a_topic_is_named(desk, caplog):
    history(desk)
    shutil.rmtree(desk.folder / "topics" / "esper.new")
    desk.open()

    assert "topic esper.new is lost: its folder is not there" in caplog.text
    assert "esper.new" not in desk.store.topics


def test_a_segment_restored_whole_is_whole_again(desk, values_of):
    """The sidecar still tells of the damage that the copy has not."""
    history(desk)
    desk.open()
    path = sorted((desk.folder / "topics" / "esper.runs" / "0").glob("*.log"))[1]
    good = path.read_bytes()
    path.write_bytes(good[:80] + b"\xff" + good[81:])
    path.with_suffix(".index").unlink()
    desk.close()
    desk.open()
    damaged = desk.store.partition("esper.runs", 0).damaged
    desk.close()
    path.write_bytes(good)
    desk.open()

    assert damaged == [str(path)]
    assert desk.store.partition("esper.runs", 0).damaged == []
    assert len(desk.read(values_of, "esper.runs")) == 36


def test_an_index_of_another_segment_of_the_same_size_is_not_believed(desk, values_of):
    history(desk)
    paths = sorted((desk.folder / "topics" / "esper.runs" / "0").glob("*.index"))
    shutil.copy(paths[0], paths[1])
    assert paths[0].with_suffix(".log").stat().st_size == paths[1].with_suffix(".log").stat().st_size
    desk.open()

    assert len(desk.read(values_of, "esper.runs")) == 36


def test_an_old_registry_beside_a_newer_journal_is_opened_or_refused_with_the_way_out(desk):
    """SQLite applies a journal to whatever file lies beside it."""
    history(desk)
    desk.open()
    for number in range(50):
        desk.create(f"more-{number}")
    journal = (desk.folder / "meta.db-wal").read_bytes()
    desk.close()
    harm(desk, "meta.db", "older")
    (desk.folder / "meta.db-wal").write_bytes(journal)
    desk.open()

    assert {f"more-{number}" for number in range(50)} < desk.store.topics.keys()
