"""`esper export`, `esper verify` and `esper report`: a run's history for somebody else, and a run as one web page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Final

from esper.cli import RUN_FAILED
from esper.cli.history import find_run, history_of
from esper.cli.output import GREEN, RED, say, say_json, styled
from esper.errors import InvalidInput

MARK: Final = b'<meta name="generator" content="esper report">'
"""What every report says of itself, so that an older one can be replaced and nothing else is."""
HEAD_BYTES: Final = 1_000


def export_command(data_dir: Path, word: str, to: Path | None, *, with_objects: bool, as_json: bool) -> None:
    """Export a run and its family; raises InvalidInput where the folder exists or the run does not."""
    from projections.export import OBJECTS, export, family  # noqa: PLC0415 - only needed here

    with history_of(data_dir) as history:
        run_id = find_run(history, word)
        folder = to if to is not None else Path(f"esper-export-{run_id}")
        done = export(history, family(history, run_id), folder, data_dir / OBJECTS if with_objects else None)
    if as_json:
        say_json(asdict(done))
        return
    say(f"exported {' and '.join(done.runs)} to {done.folder}")
    say(f"  {done.events:,} events, {done.bytes / 1e6:.1f} MB, no keys")
    if with_objects:
        say(f"  {done.objects:,} objects; {done.missing:,} more that events name were deleted before, as old ones are")
    say(f"  digest {done.digest}")
    say("\ntry next")
    say(f"  esper verify {done.folder}")
    say(f'  esper sql --data-dir {done.folder} "from runs"')
    say(f"  cd {done.folder} && duckdb -init views.sql     (needs no Esper)")


def verify_command(folder: Path, *, as_json: bool) -> int:
    """Say what is wrong with an exported folder, or that nothing is; the exit code."""
    from projections.export import verify_export  # noqa: PLC0415 - only needed here

    verdict = verify_export(folder)
    if as_json:
        say_json({"intact": not verdict.problems, **asdict(verdict)})
    elif verdict.problems:
        say(styled(f"{folder} is not what was exported:", RED))
        for problem in verdict.problems:
            say(f"  {problem}")
    else:
        say(styled(f"{folder} is what was exported", GREEN) + f": {', '.join(verdict.runs)}")
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
