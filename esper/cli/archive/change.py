"""`esper archive compact` and `esper archive copy`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from esper.cli import RUN_FAILED
from esper.cli.archive.look import MB, found
from esper.cli.meter import meter
from esper.cli.output import complain, say, say_json
from esper.errors import InvalidInput

AGAIN: Final = "; what is there stays whole, and the same command goes on where it stopped"


def compact_command(data_dir: Path, *, as_json: bool) -> None:
    """Every merge that makes files fewer, here and now."""
    from projections.archive import Archive  # noqa: PLC0415
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
    from projections.address import Folder  # noqa: PLC0415
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
            f'ask it with `esper sql --archive {target.address} "from runs"`'
        )
    return RUN_FAILED if done.damage else 0
