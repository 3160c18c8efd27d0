"""`esper archive` status, verify, compact and copy; `esper export`, `esper verify` and `esper report`."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

from esper.cli import RUN_FAILED
from esper.cli.history import find_run, history_of
from esper.cli.output import GREEN, RED, YELLOW, complain, meter, one_line, say, say_json, styled, table
from esper.errors import InvalidInput

if TYPE_CHECKING:
    from projections.manifest import FileEntry, Manifest
    from projections.verify import Finding


MB = 1_000_000


AGAIN: Final = "; what is there stays whole, and the same command goes on where it stopped"


def status_command(data_dir: Path, address: str | None, *, as_json: bool) -> int:
    """What the manifest says, and which files it lists that are plainly not there."""
    from projections.manifest import owned  # noqa: PLC0415 - only needed here
    from projections.wholeness import coverage, survey  # noqa: PLC0415 - as above

    folder, manifest = found(data_dir, address)
    findings = survey(folder, manifest, _beside(data_dir, address, folder))
    covered = coverage(manifest)
    summary = {
        "archive": folder.address,
        "records": sum(each.records for each in covered),
        "bytes": sum(entry.size for entry in manifest.files),
        "files": len(manifest.files),
        "levels": dict(sorted(Counter(entry.level for entry in manifest.files).items())),
        "replaced": len(manifest.retired),
        "generation": manifest.generation,
        "written_now": folder.local is not None and owned(folder.local),
    }
    if as_json:
        tables = {name: manifest.rows(name) for name in sorted({entry.table for entry in manifest.files})}
        places = [{**asdict(each), "records": each.records} for each in covered]
        say_json({**summary, "tables": tables, "coverage": places, **_told(findings)})
        return _verdict(findings)
    say("{archive}: {records:,} records in {files:,} files".format(**summary) + f", {summary['bytes'] / MB:,.1f} MB")
    levels = ", ".join(f"{count} merged {level} times" for level, count in summary["levels"].items() if level)
    say(f"an archiver writes it now: {'yes' if summary['written_now'] else 'no'}; {levels or 'no file is merged yet'}")
    say()
    rows = [(f"{each.topic}/{each.partition}", each.first, each.next, each.records, each.lost) for each in covered]
    say(table(("topic/partition", "from offset", "to before", "records", "lost"), rows, right=(1, 2, 3, 4)))
    _say_findings(findings, sound="nothing is plainly missing; `esper archive verify` reads every byte")
    return _verdict(findings)


def verify_command(data_dir: Path, address: str | None, *, as_json: bool) -> int:
    """Every byte and every offset."""
    from projections import open_history  # noqa: PLC0415
    from projections.wholeness import examine  # noqa: PLC0415

    folder, manifest = found(data_dir, address)
    total, done = sum(entry.size for entry in manifest.files), 0
    with open_history(folder.local or folder.address) as history, meter("verifying", total) as tell:

        def read(size: int) -> None:
            nonlocal done
            done += size
            tell(done, None)

        try:
            findings = examine(
                history, folder if folder.local is None else None, read, _beside(data_dir, address, folder)
            )
        except OSError as error:
            raise InvalidInput(f"the archive at {folder.address} cannot be read: {error}") from None
        checked = history.manifest
    if as_json:
        size = sum(entry.size for entry in checked.files)
        say_json({"archive": folder.address, "files": len(checked.files), "bytes": size, **_told(findings)})
        return _verdict(findings)
    records = sum(entry.rows for entry in checked.files)
    say(f"{folder.address}: {records:,} records in {len(checked.files):,} files, {done / MB:,.1f} MB read")
    _say_findings(findings, sound="whole")
    return _verdict(findings)


def found(data_dir: Path, address: str | None) -> tuple[Any, Manifest]:
    """The archive of a data folder or at an address; raises InvalidInput where there is none."""
    from projections import manifest  # noqa: PLC0415
    from projections.addresses import Folder  # noqa: PLC0415
    from projections.transfer import manifest_at  # noqa: PLC0415

    folder = Folder.at(address if address is not None else data_dir / "archive")
    try:
        listed = manifest_at(folder) if folder.local is None else manifest.load(folder.local)
    except OSError as error:
        raise InvalidInput(f"the archive at {folder.address} cannot be read: {error}") from None
    if listed.generation == 0:
        raise InvalidInput(f"{folder.address} holds no archive; run `esper run`, or name another with --archive")
    return folder, listed


def _beside(data_dir: Path, address: str | None, folder: Any) -> Any:
    """What lies beside the archive of a data folder: its log, its objects, this user's keys."""
    from esper.errors import EsperError  # noqa: PLC0415
    from esper.weatherlight import client  # noqa: PLC0415
    from projections import manifest  # noqa: PLC0415
    from projections.cross_checks import Beside  # noqa: PLC0415
    from streams.keys import known_key_ring  # noqa: PLC0415
    from streams.log_ends import log_ends  # noqa: PLC0415
    from streams.objects import object_store  # noqa: PLC0415
    from streams.settings import Settings  # noqa: PLC0415

    written = folder.local is not None and manifest.owned(folder.local)
    if address is not None:
        return Beside(written=written)
    settings, running = Settings.load(), client.status(data_dir)
    keys = known_key_ring(settings)
    try:
        ends = log_ends(data_dir, settings.brokers or (running.brokers if running is not None else None))
    except EsperError as error:
        complain(f"the archive is not compared with its log: {error}")
        ends = None
    return Beside(ends, object_store(data_dir), keys, written)


def _told(findings: list[Finding]) -> dict[str, Any]:
    return {"whole": not any(each.serious for each in findings), "findings": [asdict(each) for each in findings]}


def _verdict(findings: list[Finding]) -> int:
    return RUN_FAILED if any(each.serious for each in findings) else 0


def _say_findings(findings: list[Finding], sound: str) -> None:
    say()
    for each in findings:
        say(styled(str(each), RED if each.serious else YELLOW))
    serious = sum(each.serious for each in findings)
    if serious:
        say(styled(f"not whole: {serious} findings; the rest stays readable", RED))
    else:
        say(styled(sound if not findings else f"{sound}; what is told above is kept as it came", GREEN))


def compact_command(data_dir: Path, *, as_json: bool) -> None:
    """Every merge that makes files fewer, here and now."""
    from projections.archive_writer import Archive  # noqa: PLC0415
    from projections.compaction import merge_all  # noqa: PLC0415

    folder, before = found(data_dir, None)
    assert folder.local is not None
    with Archive(folder.local) as owned, meter("merging", sum(entry.size for entry in before.files)) as tell:
        owned.delete_retired(time.time())
        merged = 0

        def done(size: int) -> None:
            nonlocal merged
            merged += size
            tell(merged, None)

        damaged = merge_all(owned, 2, time.time, done)
        after = owned.manifest
    for name in damaged:
        complain(f"{folder.local / 'files' / name} is damaged and stays as it is; see `esper archive verify`")
    summary = {"files_before": len(before.files), "files": len(after.files), "replaced": len(after.retired)}
    if as_json:
        say_json({**summary, "damaged": sorted(damaged)})
        return
    say(f"{len(before.files):,} files became {len(after.files):,}; replaced ones are deleted after ten minutes")


def copy_command(data_dir: Path, address: str | None, to: str, *, as_json: bool) -> int:
    """Bring the copy at `to` up to date."""
    from projections.addresses import Folder  # noqa: PLC0415
    from projections.transfer import transfer  # noqa: PLC0415

    source, _ = found(data_dir, address)
    target = Folder.at(to)
    try:
        with meter("copying") as tell:
            done = transfer(source, target, time.time(), tell)
    except OSError as error:
        raise InvalidInput(f"the copy at {target.address} cannot be written to its end: {error}{AGAIN}") from None
    for each in done.damage:
        complain(str(each))
    summary: dict[str, Any] = {"from": source.address, "to": target.address, "copied": done.copied, "bytes": done.size}
    summary |= {"there_already": done.kept, "removed": done.removed, "damaged": [str(each) for each in done.damage]}
    if as_json:
        say_json(summary)
    else:
        say(
            f"{done.copied:,} files ({done.size / MB:,.1f} MB) copied to {target.address}, {done.kept:,} were there; "
            f'ask it with `esper sql --archive {quote(target.address)} "from runs"`'
        )
    return RUN_FAILED if done.damage else 0


def ducklake_command(data_dir: Path, to: Path, *, as_sql: bool, as_json: bool) -> None:
    """Make the catalogue, or print the SQL that does."""
    from projections.interchange import ducklake  # noqa: PLC0415 - only needed here

    folder, manifest = found(data_dir, None)
    assert folder.local is not None
    if as_sql:
        text = ducklake.script(folder.local, manifest, to)
        say_json({"sql": text}) if as_json else say(text)
        return
    ducklake.register(folder.local, manifest, to)
    tables = sorted({entry.table for entry in manifest.files})
    if as_json:
        say_json({"catalogue": str(to), "tables": tables, "files": len(manifest.files)})
        return
    say(f"{to}: {len(tables)} tables of {len(manifest.files):,} files, which stay where they are")
    say(one_line(f"  ATTACH 'ducklake:{to}' AS esper (READ_ONLY); FROM esper.epoch_completed;"))


def repair_command(data_dir: Path, name: str, copy: str | None, *, as_json: bool) -> None:
    """Make a damaged file again."""
    from projections import repair  # noqa: PLC0415
    from projections.addresses import Folder  # noqa: PLC0415

    archive = data_dir / "archive"
    found(data_dir, None)
    entry = repair.damaged_file(archive, name)
    aside = repair.from_copy(archive, entry, Folder.at(copy)) if copy is not None else _from_log(data_dir, entry)
    lies = None if aside is None else str(aside)
    if as_json:
        say_json({"file": name, "rows": entry.rows, "from": copy or "log", "damaged": lies})
        return
    say(f"the {entry.rows:,} rows of {name} are back, from {copy or 'the log'}")
    say(f"the damaged file is {lies}" if lies else "there was no file any more")


def _from_log(data_dir: Path, entry: FileEntry) -> Path | None:
    from projections import repair  # noqa: PLC0415
    from projections.archive_writer import Archive  # noqa: PLC0415
    from streams.broker.launch import start_broker  # noqa: PLC0415
    from streams.bulk import stretches  # noqa: PLC0415
    from streams.keys import load_key_ring  # noqa: PLC0415
    from streams.settings import Settings  # noqa: PLC0415

    settings = Settings.load(data=data_dir)
    ring = load_key_ring(settings)
    with Archive(data_dir / "archive", ring) as owned:
        broker = None if settings.brokers else start_broker(data_dir)
        try:
            batches = stretches(settings.brokers or (broker.address if broker else ""), entry.offsets)
        finally:
            if broker is not None:
                broker.stop()
        return repair.from_records(owned, entry, batches, ring, time.time())


MARK: Final = b'<meta name="generator" content="esper report">'


"""What every report says of itself, so that an older one can be replaced and nothing else is."""


HEAD_BYTES: Final = 1_000


def export_command(
    data_dir: Path, word: str, to: Path | None, *, with_objects: bool, with_network: bool, trust: bool, as_json: bool
) -> None:
    """Export a run and its family; raises InvalidInput where the folder exists or the run does not."""
    from projections.export import export, family  # noqa: PLC0415 - only needed here
    from streams.objects import object_store  # noqa: PLC0415 - as above

    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        folder = to if to is not None else Path(f"esper-export-{run_id}")
        if folder.exists():
            raise InvalidInput(f"{folder} exists, and an export overwrites nothing; name another folder with --to")
        network = _network(data_dir, run_id, trust=trust) if with_network else {}
        objects = object_store(data_dir) if with_objects else None
        done = export(history, family(history, run_id), folder, objects, network)
    if as_json:
        say_json(asdict(done))
        return
    say(one_line(f"exported {' and '.join(done.runs)} to {done.folder}"))
    say(f"  {done.events:,} events, {done.bytes / 1e6:.1f} MB, no keys")
    if with_objects:
        say(f"  {done.objects:,} objects; {done.missing:,} more that events name were deleted before, as old ones are")
    if network:
        say(f"  its network: {', '.join(sorted(network))}")
    say(f"  digest {done.digest}")
    say("\ntry next")
    named = quote(done.folder)
    say(f"  esper verify {named}")
    say(f'  esper sql --data-dir {named} "from runs"')
    say(f"  cd {named} && duckdb -init views.sql     (needs no Esper)")


def _network(data_dir: Path, run_id: str, *, trust: bool) -> dict[str, bytes]:
    from esper.cli.load import carried  # noqa: PLC0415 - torch, and only --with-network needs it

    return carried(data_dir, run_id, trust=trust)


def verify_export_command(folder: Path, *, as_json: bool) -> int:
    """Say what is wrong with an exported folder, or that nothing is; the exit code."""
    from projections.export import verify_export  # noqa: PLC0415 - only needed here

    verdict = verify_export(folder)
    if as_json:
        say_json({"intact": not verdict.problems, **asdict(verdict)})
    elif verdict.problems:
        say(styled(f"{folder} is not what was exported:", RED))
        for problem in verdict.problems:
            say(one_line(f"  {problem}"))
    else:
        say(styled(f"{folder} is what was exported", GREEN) + one_line(f": {', '.join(verdict.runs)}"))
        say(f"  {verdict.files:,} files and {verdict.objects:,} objects by their checksums")
        say(f"  {verdict.events:,} events by the digests of their runs; the columns say what the events' own bytes say")
        say(f"  digest {verdict.digest}")
        say("  whoever made the export can tell you the digest that it must have")
    return RUN_FAILED if verdict.problems else 0


def report_command(data_dir: Path, word: str, to: Path | None, *, as_json: bool) -> None:
    """Write the report; raises InvalidInput where the file exists and is something else, or the run does not exist."""
    from projections.report import page  # noqa: PLC0415 - only needed here

    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        file = to if to is not None else Path(f"esper-report-{run_id}.html")
        _check(file)
        text = page(history, run_id)
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}; name another file with --to") from None
    if as_json:
        say_json({"run_id": run_id, "file": str(file), "bytes": file.stat().st_size})
    else:
        say(f"{file}: the report of run {run_id}, {file.stat().st_size / 1e3:,.0f} kB; open it in any browser")


def _check(file: Path) -> None:
    if file.is_dir():
        raise InvalidInput(f"{file} is a folder; name a file with --to")
    if file.exists() and MARK not in file.read_bytes()[:HEAD_BYTES]:
        raise InvalidInput(f"{file} exists and is no report of Esper's; name another file with --to")
