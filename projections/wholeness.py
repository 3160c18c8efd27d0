"""What an archive covers, and everything in it that is missing, wrong or not understood, each by its name.

`survey` needs the manifest and the names of the files; `examine` reads every byte and every offset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from projections.addresses import Folder
from projections.columns import INVALID, TABLES
from projections.cross_checks import (
    Beside,
    answer_findings,
    key_findings,
    log_findings,
    object_findings,
    set_aside_findings,
    verdict_findings,
)
from projections.history import History
from projections.manifest import FILES, Gap, Manifest
from projections.records import Unreadable
from projections.transfer import damaged_at
from projections.verify import Finding, damaged

NOTHING: Final = Beside()


@dataclass(frozen=True, slots=True)
class Coverage:
    """Offsets `[first, next)` of a topic partition that are archived, but for `lost` among them."""

    topic: str
    partition: int
    first: int
    next: int
    lost: int

    @property
    def records(self) -> int:
        """How many records that are."""
        return self.next - self.first - self.lost


def coverage(manifest: Manifest) -> list[Coverage]:
    """What is archived of every topic partition, in order."""
    found = []
    for (topic, partition), end in sorted(manifest.next_offsets.items()):
        gaps = [gap for gap in manifest.gaps if (gap.topic, gap.partition) == (topic, partition)]
        first = gaps[0].next if gaps and gaps[0].first == 0 else 0
        lost = sum(gap.next - gap.first for gap in gaps if gap.first > 0)
        found.append(Coverage(topic, partition, first, end, lost))
    return found


def survey(archive: Folder, manifest: Manifest, beside: Beside = NOTHING) -> list[Finding]:
    """What can be seen without reading a listed file: those that are missing or have another size, what the log lost.

    And where the log, as far as it is known, and the folder itself contradict the manifest.
    """
    findings = []
    sizes = archive.sizes(FILES)
    for entry in manifest.files:
        size = sizes.get(entry.name)
        if size != entry.size:
            problem = "is missing" if size is None else f"has {size} bytes instead of {entry.size}"
            what = f"{problem}; its {entry.rows} rows of {entry.table} are left out"
            findings.append(Finding("file", f"{archive.address}/{FILES}/{entry.name}", what))
    findings += log_findings(manifest, beside)
    if archive.local is not None:
        findings += set_aside_findings(archive.local, manifest, beside)
        findings += _strays(archive)
    return [*findings, *_lost(manifest), *_newer_tables(manifest)]


def _strays(archive: Folder) -> Iterator[Finding]:
    for name in archive.strangers(FILES):
        yield Finding("stray", f"{archive.address}/{FILES}/{name}", "it is none of the archive's files; move it away")


def examine(
    history: History,
    source: Folder | None = None,
    progress: Callable[[int], None] = lambda _bytes: None,
    beside: Beside = NOTHING,
) -> list[Finding]:
    """Everything: each file's bytes against its checksum, each offset once, each run's facts, what is no event.

    And all that with what lies `beside` the archive: the log, the objects that events name, the keys.

    `source` is where the archive lies, if that is not the folder that the history reads: then the files there are
    looked at. `progress` is told the bytes of every file that was read. The history leaves out what is damaged.
    """
    history.refresh()
    manifest = history.manifest
    if source is None:
        found = damaged(
            history.archive,
            manifest.files,
            trust_cache=False,
            progress=lambda each: progress(each.size),
            look=history.unpacks_to_more,
        )
    else:
        found = damaged_at(source, manifest.files, progress)
    history.leave_out(found)
    findings = [
        Finding("file", str(each.path), f"{each.problem}; its {each.rows} rows of {each.table} are left out")
        for each in history.damage
    ]
    findings += _lost(manifest)
    findings += _offsets(history)
    findings += _runs(history)
    findings += _not_understood(history)
    if source is None:
        findings += set_aside_findings(history.archive, manifest, beside)
        findings += _strays(Folder.at(history.archive))
    findings += log_findings(manifest, beside)
    findings += key_findings(history, beside)
    findings += verdict_findings(history)
    findings += answer_findings(history, beside)
    findings += object_findings(history, beside)
    return [*findings, *_newer_tables(manifest)]


def _lost(manifest: Manifest) -> Iterator[Finding]:
    for gap in manifest.gaps:
        known = [each for each in manifest.unreadable if _within(each, gap)]
        for each in known:
            yield Finding("lost", each.place, f"damaged on the log{f' ({each.file})' if each.file else ''}: {each.why}")
        if sum(each.next - each.first for each in known) < gap.next - gap.first:
            what = "the log no longer had these when the archive came for them, or never gave them out"
            yield Finding("lost", _range(gap), what)


def _within(each: Unreadable, gap: Gap) -> bool:
    same = (each.topic, each.partition) == (gap.topic, gap.partition)
    return same and each.first < gap.next and gap.first < each.next


def _range(gap: Gap) -> str:
    count = gap.next - gap.first
    held = f"offset {gap.first}" if count == 1 else f"offsets {gap.first} to {gap.next - 1}"
    return f"{gap.topic}/{gap.partition} {held}"


def _newer_tables(manifest: Manifest) -> Iterator[Finding]:
    for table in sorted({entry.table for entry in manifest.files} - set(TABLES)):
        what = f"{manifest.rows(table)} events of a type that this Esper does not know; a newer one reads them"
        yield Finding("newer", table, what)


_HELD: Final = f"""
    SELECT log_topic AS topic, log_partition AS part, log_offset AS place FROM log.every
    UNION ALL SELECT log_topic, log_partition, log_offset FROM log.{INVALID}
"""  # noqa: S608  a name of ours


def _offsets(history: History) -> Iterator[Finding]:
    """Which offsets are held twice or not at all, though the manifest says that they were archived."""
    counted = history.cursor(
        f"SELECT topic, part, count(*), count(DISTINCT place) FROM ({_HELD}) GROUP BY ALL"  # noqa: S608  ours
    ).fetchall()
    held = {(topic, part): (records, distinct) for topic, part, records, distinct in counted}
    unknown = {entry.table for entry in history.manifest.files} - set(TABLES)
    for each in coverage(history.manifest):
        place = (each.topic, each.partition)
        records, distinct = held.get(place, (0, 0))
        if records > distinct:
            what = f"{records - distinct} records are held twice"
            yield Finding("repeated", f"{each.topic}/{each.partition}", what)
        if distinct < each.records and not unknown:  # a newer Esper's tables hold offsets that cannot be seen here
            holes = list(_holes(history, each))
            missing = Gap(each.topic, each.partition, holes[0].first, holes[-1].next)
            what = f"{each.records - distinct} of these were archived and are in no file that can be read"
            yield Finding("records", _range(missing), what)


def _holes(history: History, covered: Coverage) -> Iterator[Gap]:
    """The offsets of a topic partition that no sound file holds, but for those that the log itself had lost."""
    topic, partition = covered.topic, covered.partition
    steps = history.cursor(
        f"""
        WITH held AS (
            SELECT DISTINCT place FROM ({_HELD}) WHERE topic = $topic AND part = $partition
            UNION ALL SELECT $first - 1
        )
        SELECT place + 1 AS first, lead(place, 1, $next) OVER (ORDER BY place) AS next FROM held
        QUALIFY next > first ORDER BY first
        """,  # noqa: S608  names of ours
        {"topic": topic, "partition": partition, "first": covered.first, "next": covered.next},
    ).fetchall()
    lost = [gap for gap in history.manifest.gaps if (gap.topic, gap.partition) == (topic, partition)]
    for first, end in steps:
        starts = [first, *(gap.next for gap in lost if first <= gap.first < end)]
        ends = [*(gap.first for gap in lost if first <= gap.first < end), end]
        yield from (Gap(topic, partition, *hole) for hole in zip(starts, ends, strict=True) if hole[0] < hole[1])


_IN_WORDS: Final = {
    "gap": "facts are missing before sequence {sequence}",
    "conflict": "two facts claim sequence {sequence}",
    "not_started": "its first fact, sequence {sequence}, is not the start of a run",
    "unclaimed": "sequence {sequence} is of an incarnation that claimed nothing",
    "bad_claim": "sequence {sequence} claims the run from a fact that is not there",
    "bad_rollback": "sequence {sequence} goes back to a fact that is not there",
    "illegal_transition": "sequence {sequence} moves a seed as no seed may move",
}


def _runs(history: History) -> Iterator[Finding]:
    rows: list[Any] = history.cursor("SELECT run_id, problem, sequence FROM stops ORDER BY run_id").fetchall()
    for run_id, problem, sequence in rows:
        words = _IN_WORDS.get(problem, f"{problem} at sequence {{sequence}}")
        yield Finding("run", f"run {run_id}", words.format(sequence=sequence))


def _not_understood(history: History) -> Iterator[Finding]:
    """Records that were kept raw, by the reason: a newer Esper's, and those that are no event at all."""
    rows: list[Any] = history.cursor(
        f"SELECT split_part(reason, ':', 1) AS why, count(*), min((log_topic, log_partition, log_offset)) "  # noqa: S608
        f"FROM log.{INVALID} GROUP BY why ORDER BY why"
    ).fetchall()
    for why, count, first in rows:
        newer = why.startswith(("schema version", "no body"))
        topic, partition, offset = first.values() if isinstance(first, dict) else first
        records = "1 record" if count == 1 else f"{count} records, the first of them"
        where = f"{records} at {topic}/{partition}@{offset}"
        yield Finding("newer" if newer else "invalid", where, f"{why}; kept as it came in log.{INVALID}")
