"""The commands of `esper archive`, their options and their help."""

from __future__ import annotations

from typing import Annotated

import typer

from esper.cli.options import DATA_DIR, Archive, AsJson, DataDir

archive_app = typer.Typer(help="The archive: every event of the log as Parquet. What it covers, whether it is whole, copies.")


@archive_app.command(epilog="Example: esper archive status --archive s3://bucket/esper")
def status(data_dir: DataDir = DATA_DIR, archive: Archive = None, *, as_json: AsJson = False) -> int:
    """What is archived: offsets of every topic partition, files and their sizes, and what is plainly missing.

    Exit code 1 where something is. It reads no file but the manifest; `esper archive verify` reads them all.
    """
    from esper.cli.archive.look import status_command  # noqa: PLC0415

    return status_command(data_dir, archive, as_json=as_json)


@archive_app.command(epilog="Example: esper archive verify --json")
def verify(data_dir: DataDir = DATA_DIR, archive: Archive = None, *, as_json: AsJson = False) -> int:
    """Read everything: each file against its checksum, each offset once, the facts of each run without a gap.

    What is damaged, missing, repeated or of a newer Esper is named; exit code 1 where the history is not whole. Needs
    nothing running, and may run beside everything.
    """
    from esper.cli.archive.look import verify_command  # noqa: PLC0415

    return verify_command(data_dir, archive, as_json=as_json)


@archive_app.command(epilog="Example: esper archive compact --data-dir esper-data")
def compact(data_dir: DataDir = DATA_DIR, *, as_json: AsJson = False) -> None:
    """Merge small files into few, which makes questions faster, and delete those that were replaced long ago.

    The archiver does that by itself while it runs; this is for an archive that none writes any more.
    """
    from esper.cli.archive.change import compact_command  # noqa: PLC0415

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
    from esper.cli.archive.change import copy_command  # noqa: PLC0415

    return copy_command(data_dir, archive, to, as_json=as_json)
