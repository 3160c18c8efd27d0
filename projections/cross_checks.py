"""An archive compared with what lies beside it: the log, the objects, the keys; and its events with one another.

The manifest alone cannot say that it is an older one, nor that a log gave the same offsets twice, nor that a key was
exchanged. Each of these is named by what contradicts it, with what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contracts.topics import RUNS
from esper.errors import EsperError, LogUnavailable
from esper.leyline.names import shown
from esper.leyline.objects import ObjectStore
from esper.leyline.signing import HEADER_KEY_ID, KeyRing, key_id
from projections import unlisted
from projections.columns import INVALID
from projections.history import History
from projections.manifest import SET_ASIDE, Manifest, Place
from projections.verdicts import fact_rows, judged, keep_verdicts
from projections.verify import Finding

SETTLE_MS: Final = 5_000
"""Partitions are archived one after the other: of so short ago, what an event answers may be archived after it."""
_NAMED: Final = re.compile(rb"(?:sha256|file):([0-9a-f]{64})")
_KEY: Final = f"decode(list_filter(log_headers, lambda each: each.\"key\" = '{HEADER_KEY_ID}')[1].value)"
_BATCH: Final = 10_000


@dataclass(frozen=True, slots=True)
class Beside:
    """What lies beside an archive, as far as it is known: where the log begins and ends, the objects, the keys.

    `written` says that an archiver is at work, so that the log is ahead of the archive and files are being made.
    """

    ends: Mapping[Place, int] | None = None
    objects: ObjectStore | None = None
    keys: KeyRing | None = None
    written: bool = False


def log_findings(manifest: Manifest, beside: Beside) -> Iterator[Finding]:
    """Where the log ends before the archive does, or has more than it."""
    waiting = 0
    for (topic, partition), end in (beside.ends or {}).items():
        archived = manifest.next_offsets.get((topic, partition), 0)
        waiting += max(end - archived, 0)
        if end < archived:
            what = (
                f"the log ends at offset {end} and {archived} are archived: it is an older copy of the log or another; "
                "stop Esper, put the newest copy of the folder `log` back, or take another data folder"
            )
            yield Finding("log", f"{topic}/{partition}", what)
    if waiting and not beside.written:
        what = "of the log are not archived yet and so in no answer; `esper up` archives them"
        yield Finding("behind", f"{waiting} records", what)


def set_aside_findings(archive: Path, manifest: Manifest, beside: Beside) -> Iterator[Finding]:
    """Files that nothing lists: those that were set aside, and, while nobody writes, those among the others."""
    found = unlisted.paths(archive) + ([] if beside.written else unlisted.among(archive, manifest))
    for each in unlisted.looked_at(archive, manifest, found):
        if each.records is None:
            what = "nothing lists it and it cannot be read; move it away once `verify` finds nothing else"
            yield Finding("stray", str(each.path), what)
        elif each.missing:
            what = (
                f"{each.missing} of its {each.records} records are in no file that is listed: the manifest is an older "
                f"copy, or a writer was killed; `esper up` takes over what the log has lost and keeps the file in "
                f"{SET_ASIDE} until all of it is archived"
            )
            yield Finding("unlisted", str(each.path), what)
        else:
            yield Finding("stray", str(each.path), "listed files hold all its records; `esper up` deletes it")


def key_findings(history: History, beside: Beside) -> Iterator[Finding]:
    """Records under a key that is not known here, and those that came when their key was retired already."""
    total = sum(entry.rows for entry in history.manifest.files)
    for key, count, lost in unverified(history):
        runs = f", among them the start of {', '.join(map(shown, lost[:3]))}" if lost else ""
        what = (
            f"of {total} ({count / total:.0%}) are signed by it and it does not verify them, so they count as no "
            f"events{runs}: if it was yours, set ESPER_KEY_PREVIOUS or ESPER_KEYS_RETIRED, move the archive away and "
            "run `esper up`, which archives the kept log again; else a stranger wrote them"
        )
        yield Finding("key" if lost else "invalid", f"key {key}: {count} records", what)
    for secret, at_ns in (beside.keys.retired if beside.keys is not None else {}).items():
        rows = history.cursor(
            f"SELECT count(*), min(run_id), count(DISTINCT run_id), min((log_topic, log_partition, log_offset)) "  # noqa: S608
            f"FROM log.every WHERE log_timestamp_ms >= $at AND {_KEY} = $key",
            {"at": at_ns // 1_000_000, "key": key_id(secret)},
        ).fetchall()
        for count, run_id, runs, first in rows:
            if count:
                topic, partition, offset = first.values() if isinstance(first, dict) else first
                what = (
                    f"of {runs} runs ({shown(run_id)} the first) came after it was retired, from {topic}/{partition}"
                    f"@{offset} on: whoever has that key may have written them; look at them in log.every"
                )
                yield Finding("key", f"key {key_id(secret)}: {count} records", what)


def unverified(history: History) -> list[tuple[str, int, list[str]]]:
    """Keys by which records were signed that nothing here verifies: each with how many, and runs that are so absent."""
    if not history.manifest.rows(INVALID):
        return []
    rows: list[Any] = history.cursor(
        f"""
        SELECT {_KEY} AS signer, count(*),
            list(DISTINCT decode(log_key)) FILTER (log_topic = '{RUNS.name}' AND log_key IS NOT NULL)
        FROM log.{INVALID} WHERE reason = 'invalid_signature' AND len(log_headers) > 0 GROUP BY signer ORDER BY ALL
        """  # noqa: S608  names of ours
    ).fetchall()
    known = {run_id for (run_id,) in history.cursor("SELECT DISTINCT run_id FROM log.run_started").fetchall()}
    return [(shown(signer)[1:-1], count, sorted(set(runs or ()) - known)) for signer, count, runs in rows if signer]


def verdict_findings(history: History) -> Iterator[Finding]:
    """Facts whose verdict in the files is not what the rule says of them."""
    if history.judged_here:
        return  # then no verdict in the files counts
    apart = list(history.undecided())
    sources = [(table, f"log.{table}") for table in RUNS.bodies if history.manifest.of(table)]
    named = ", ".join(source for _, source in sources)
    if not sources:
        return
    connection = history.cursor(f"SELECT 1 FROM log.facts, {named} LIMIT 0")  # noqa: S608  it makes the views
    for _ in keep_verdicts(connection, "decided.again", judged(fact_rows(connection, sources))):
        pass
    rows = connection.execute(
        "SELECT fact.run_id, count(*), min(fact.sequence) FROM log.facts AS fact LEFT JOIN decided.again AS again "
        "ON again.log_partition = fact.log_partition AND again.log_offset = fact.log_offset "
        "WHERE coalesce(again.verdict, 1) <> fact.log_verdict AND NOT list_contains($apart, fact.run_id) "
        "GROUP BY ALL ORDER BY ALL",
        {"apart": apart},
    ).fetchall()
    for run_id, count, sequence in rows:
        what = (
            f"{count} facts, from sequence {sequence} on, have a wrong verdict in the files, so they count or do not "
            "count where they should not; move the archive away and run `esper up`, or take a copy of the archive"
        )
        yield Finding("verdict", f"run {shown(run_id)[1:-1]}", what)


def answer_findings(history: History, beside: Beside) -> Iterator[Finding]:
    """Runs of which there are decisions and no fact that they answer: the log acknowledged facts that are not here."""
    late = "log_timestamp_ms > (SELECT max(log_timestamp_ms) FROM log.every) - $settle"
    rows: list[Any] = history.cursor(
        f"""
        SELECT run_id, count(*), min(log_offset) FROM log.decision_made WHERE run_id <> '' AND NOT ($written AND {late})
            AND run_id IN (SELECT run_id FROM log.run_started)
            AND packet_id NOT IN (SELECT event_id FROM log.epoch_completed)
        GROUP BY run_id ORDER BY run_id
        """,  # noqa: S608  a text of ours
        {"settle": SETTLE_MS, "written": beside.written},
    ).fetchall()
    for run_id, count, offset in rows:
        what = (
            f"{count} decisions, from offset {offset} of its commands on, answer packets that are not archived: the "
            "log took these facts and lost them; put the newest copy of the folder `log` back if there is one"
        )
        yield Finding("run", f"run {shown(run_id)[1:-1]}", what)


def object_findings(
    history: History, beside: Beside, progress: Callable[[int], None] = lambda _bytes: None
) -> Iterator[Finding]:
    """Objects that events refer to, but for checkpoints that were pruned, which are missing or damaged."""
    store = beside.objects
    if store is None:
        return
    if not store.is_there:
        yield Finding("note", store.place, "there is no such folder: the objects of events were not looked at")
        return
    pruned = {ref for (ref,) in history.cursor("SELECT ref FROM log.checkpoint_pruned").fetchall()}
    missing: dict[str, dict[str, str]] = {}
    looked: dict[str, str | None] = {}
    for run_id, body, reference in _references(history):
        if reference not in pruned:
            try:
                problem = _object_problem(store, reference, looked, progress)
            except LogUnavailable as error:
                yield Finding("note", store.place, f"the objects of events were not all looked at: {error}")
                return
            if problem is not None:
                missing.setdefault(run_id, {})[reference] = f"{body}: {problem}"
    unnamed = sum(reference not in looked and reference not in pruned for reference in store.references())
    if unnamed and not missing:  # a damaged object may name others
        what = (
            "that no event names: of a writer that was killed, or of events that were lost when both the log and the "
            "archive were put back from older copies"
        )
        yield Finding("note", f"{unnamed} objects in {store.root}", what)
    for run_id, found in missing.items():
        what = f"{len(found)} objects of its events are missing or damaged, as of {next(iter(found.values()))}"
        yield Finding("object", f"run {shown(run_id)[1:-1]}", f"{what}; take them from a copy of {store.place}")


def _references(history: History) -> Iterator[tuple[str, str, str]]:
    """Every object that an event names, once for each run: the run, the event's type, the reference."""
    cursor = history.cursor("SELECT run_id, log_body, log_raw FROM log.every ORDER BY run_id, log_body")
    seen: set[tuple[str, bytes]] = set()
    while rows := cursor.fetchmany(_BATCH):
        for run_id, body, raw in rows:
            for name in _NAMED.findall(raw):
                if (run_id, name) not in seen:
                    seen.add((run_id, name))
                    yield run_id, body, f"sha256:{name.decode()}"


def _object_problem(
    store: ObjectStore, reference: str, looked: dict[str, str | None], progress: Callable[[int], None]
) -> str | None:
    """What is wrong with an object or with those that it names; each is read once.

    Raises LogUnavailable where it may lie at an address that does not answer.
    """
    if reference in looked:
        return looked[reference]
    looked[reference] = None
    try:
        content = store.get(reference)
    except LogUnavailable:
        raise
    except EsperError as error:
        looked[reference] = str(error)
        return looked[reference]
    progress(len(content))
    named: Collection[bytes] = _NAMED.findall(content) if content[:1] == b"{" else ()
    for name in named:
        problem = _object_problem(store, f"sha256:{name.decode()}", looked, progress)
        looked[reference] = looked[reference] or problem
    return looked[reference]
