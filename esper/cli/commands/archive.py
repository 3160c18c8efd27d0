"""The commands of `esper archive` and `esper projections`: their arguments, options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esper.cli.commands.options import DATA_DIR, Archive, AsJson, DataDir, Group

archive_app = typer.Typer(
    cls=Group, help="The archive: every event of the log as Parquet. What it covers, whether it is whole, copies."
)


@archive_app.command(epilog="Example: esper archive status --archive s3://bucket/esper")
def status(data_dir: DataDir = DATA_DIR, archive: Archive = None, *, as_json: AsJson = False) -> int:
    """What is archived: offsets of every topic partition, files and their sizes, and what is plainly missing.

    Exit code 1 where something is. It reads no file but the manifest; `esper archive verify` reads them all.
    """
    from esper.cli.archive import status_command  # noqa: PLC0415

    return status_command(data_dir, archive, as_json=as_json)


@archive_app.command(epilog="Example: esper archive verify --json")
def verify(data_dir: DataDir = DATA_DIR, archive: Archive = None, *, as_json: AsJson = False) -> int:
    """Read everything: each file against its checksum, each offset once, the facts of each run without a gap.

    What is damaged, missing, repeated or of a newer Esper is named; exit code 1 where the history is not whole. Needs
    nothing running, and may run beside everything.
    """
    from esper.cli.archive import verify_command  # noqa: PLC0415

    return verify_command(data_dir, archive, as_json=as_json)


@archive_app.command(epilog="Example: esper archive compact --data-dir esper-data")
def compact(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> None:
    """Merge small files into few, which makes questions faster, and delete those that were replaced long ago.

    The archiver does that by itself while it runs; this is for an archive that no archiver writes any more. An archive
    of an earlier Esper is migrated first.
    """
    from esper.cli.archive import compact_command  # noqa: PLC0415

    compact_command(data_dir, as_json=as_json)


@archive_app.command(epilog="Example: esper archive copy s3://bucket/esper")
def copy(
    to: Annotated[str, typer.Argument(help="A folder, or an address that fsspec knows.", metavar="TO")],
    data_dir: DataDir = DATA_DIR,
    archive: Archive = None,
    *,
    as_json: AsJson = False,
) -> int:
    """Copy the archive, or what is new since the last copy; the copy is whole at every moment, and an archive itself.

    Every file is compared with its checksum on the way, and the manifest comes last; exit code 1 where one is damaged.
    """
    from esper.cli.archive import copy_command  # noqa: PLC0415

    return copy_command(data_dir, archive, to, as_json=as_json)


@archive_app.command(epilog="Example: esper archive repair epoch_completed-000000012.parquet --from s3://bucket/esper")
def repair(
    name: Annotated[str, typer.Argument(help="A file that `esper archive verify` names.", metavar="FILE")],
    data_dir: DataDir = DATA_DIR,
    copy: Annotated[
        str | None, typer.Option("--from", help="A copy of the archive; without it the log is asked.", metavar="COPY")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a damaged or missing file of the archive again, from a copy of it or from what the log still holds.

    The damaged file is set aside in `archive/damaged` and never deleted. From the log it is made with nothing running.
    """
    from esper.cli.archive import repair_command  # noqa: PLC0415

    repair_command(data_dir, name, copy, as_json=as_json)


@archive_app.command(epilog="Example: esper archive ducklake esper.ducklake")
def ducklake(
    to: Annotated[Path, typer.Argument(help="The catalogue to make, a file.", metavar="FILE")],
    data_dir: DataDir = DATA_DIR,
    *,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL that makes it, for a DuckDB that has the extension.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register the archive as a DuckLake: a catalogue that lists its files as tables, for any DuckDB to attach.

    The files stay where they are, and nothing of them is copied or written. The catalogue is of this moment: delete it
    and make it anew when the archive has gone on.
    """
    from esper.cli.archive import ducklake_command  # noqa: PLC0415

    ducklake_command(data_dir, to, as_sql=sql, as_json=as_json)


projections_app = typer.Typer(
    cls=Group, help="Tables folded from the log into DuckDB files: what there is, how far it is, made anew."
)


@projections_app.command("list", epilog="Example: esper projections list")
def list_projections(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> None:
    """All projections: what they hold, which process keeps them, their state and size. Needs nothing running.

    With --json their files, views and migrations, too.
    """
    from esper.cli.projections import list_command  # noqa: PLC0415

    list_command(data_dir, as_json=as_json)


@projections_app.command(epilog="Example: esper projections rebuild experience")
def rebuild(
    name: Annotated[str, typer.Argument(help="A projection, as `list` names it, or `all`.", metavar="NAME")],
    data_dir: DataDir = DATA_DIR,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a projection anew out of the archive alone; the old file serves until the new one is whole.

    The file is a DuckDB database: open it with any tool, one process at a time. Needs nothing running.
    """
    from esper.cli.projections import rebuild_command  # noqa: PLC0415

    rebuild_command(data_dir, name, as_json=as_json)


@projections_app.command(epilog="Example: esper projections lag --json")
def lag(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> None:
    """How many records each projection lacks, against the archive; of one that is being kept, its keeper says it."""
    from esper.cli.projections import lag_command  # noqa: PLC0415

    lag_command(data_dir, as_json=as_json)
