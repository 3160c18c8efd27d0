"""An archive as a DuckLake: a catalogue that lists its files as tables, read where they lie. Nothing is copied.

What comes of it is SQL, which any DuckDB that has the extension `ducklake` runs: a catalogue is of one moment, so that
it is made anew after the archive has gone on, or has merged files.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Final

from esper.errors import InvalidInput
from projections.columns import quoted
from projections.manifest import FILES, Manifest

LAKE: Final = "esper"
"""What the catalogue is attached as."""


def script(archive: Path, manifest: Manifest, catalogue: Path) -> str:
    """SQL that makes `catalogue`, a new file, of the archive in the folder `archive`: a table a type of event."""
    tables = defaultdict[str, list[str]](list)
    for entry in manifest.files:
        tables[entry.table].append(quoted(str((archive / FILES / entry.name).absolute())))
    own = quoted(f"{catalogue.absolute()}.data/")  # DuckLake wants a place of its own, and writes nothing there
    lines = [
        "LOAD ducklake;",
        f"ATTACH {quoted(f'ducklake:{catalogue.absolute()}')} AS {LAKE} (DATA_PATH {own});",
        "BEGIN;",
    ]
    for table, files in sorted(tables.items()):
        columns = f"FROM read_parquet([{', '.join(files)}], union_by_name := true) LIMIT 0"
        lines.append(f'CREATE TABLE {LAKE}."{table}" AS {columns};')
        lines += [
            f"CALL ducklake_add_data_files('{LAKE}', '{table}', {file}, allow_missing := true);" for file in files
        ]
    return "\n".join([*lines, "COMMIT;", f"DETACH {LAKE};", ""])


def register(archive: Path, manifest: Manifest, catalogue: Path) -> None:
    """Make the catalogue with this process' DuckDB. Raises InvalidInput where it lacks the extension, or cannot."""
    import duckdb  # noqa: PLC0415 - as every DuckDB here

    if catalogue.exists():
        raise InvalidInput(f"{catalogue} exists, and a catalogue is made anew: delete it, or name another file")
    try:
        with duckdb.connect() as connection:
            connection.execute(script(archive, manifest, catalogue))
    except duckdb.Error as error:
        catalogue.unlink(missing_ok=True)  # it was not there before
        said = str(error).splitlines()[0]
        raise InvalidInput(
            f"DuckDB {duckdb.__version__} made no DuckLake ({said}); `INSTALL ducklake` once with a network, or run "
            "what --sql prints in a DuckDB that has it"
        ) from None
