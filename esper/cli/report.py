"""`esper report`: a run as one page for people, readable anywhere and offline."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from esper.cli.output import say, say_json
from esper.cli.read import history_of, run_ids
from esper.cli.run_ids import resolve
from esper.errors import InvalidInput

MARK: Final = b'<meta name="generator" content="esper report">'
"""What every report says of itself, so that an older one can be replaced and nothing else is."""
HEAD_BYTES: Final = 1_000


def report_command(data_dir: Path, word: str, to: Path | None, *, as_json: bool) -> None:
    """Write the report; raises InvalidInput where the file exists and is something else, or the run does not exist."""
    from projections.report import page  # noqa: PLC0415 - only needed here

    with history_of(data_dir) as history:
        run_id = resolve(word, run_ids(history))
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
