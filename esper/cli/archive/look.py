"""`esper archive status` and `esper archive verify`: reading only."""

from __future__ import annotations

import fcntl
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.cli import RUN_FAILED
from esper.cli.meter import meter
from esper.cli.output import GREEN, RED, YELLOW, say, say_json, styled, table
from esper.errors import InvalidInput

if TYPE_CHECKING:
    from projections.catalogue import Finding
    from projections.manifest import Manifest

MB = 1_000_000


def status_command(data_dir: Path, address: str | None, *, as_json: bool) -> int:
    """What the manifest says, and which files it lists that are plainly not there."""
    from projections.catalogue import coverage, survey  # noqa: PLC0415 - only needed here

    folder, manifest = found(data_dir, address)
    findings = survey(folder, manifest)
    covered = coverage(manifest)
    summary = {
        "archive": folder.address,
        "records": sum(each.records for each in covered),
        "bytes": sum(entry.size for entry in manifest.files),
        "files": len(manifest.files),
        "levels": dict(sorted(Counter(entry.level for entry in manifest.files).items())),
        "replaced": len(manifest.retired),
        "generation": manifest.generation,
        "written_now": folder.local is not None and _written_now(folder.local),
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
    from projections.catalogue import examine  # noqa: PLC0415

    folder, manifest = found(data_dir, address)
    total, done = sum(entry.size for entry in manifest.files), 0
    with open_history(folder.local or folder.address) as history, meter("verifying", total) as tell:

        def read(size: int) -> None:
            nonlocal done
            done += size
            tell(done, None)

        try:
            findings = examine(history, folder if folder.local is None else None, read)
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
    from projections.address import Folder  # noqa: PLC0415
    from projections.transfer import manifest_at  # noqa: PLC0415

    folder = Folder.at(address if address is not None else data_dir / "archive")
    try:
        listed = manifest_at(folder) if folder.local is None else manifest.load(folder.local)
    except OSError as error:
        raise InvalidInput(f"the archive at {folder.address} cannot be read: {error}") from None
    if listed.generation == 0:
        raise InvalidInput(f"{folder.address} holds no archive; run `esper run`, or name another with --archive")
    return folder, listed


def _written_now(archive: Path) -> bool:
    """Whether an archiver holds the archive's lock."""
    try:
        with (archive / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


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
