"""Everything that `tests/bench` measures, in one table: `python -m tests.bench`, from the root of the repository.

Each benchmark has a process of its own, one after the other. The quick form takes a few minutes and `--full` the counts
that the limits are stated for. A machine that does something else meanwhile spoils the figures: what else it did is
said above the table. The growth tables, which take an hour, are `python -m tests.bench.growth`.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.bench.table import HEADER, Row, failed, line, rows_of

BENCHES = (
    "overhead",
    "script_step",
    "enqueue",
    "contracts",
    "kasmina",
    "decision_latency",
    "learned_policy",
    "learning",
    "archive",
    "archive_peers",
    "state",
    "long_run",
    "library",
    "kernels",
    "compile",
    "feed",
    "run",
    "relive",
    "broker",
    "real_log",
    "scale",
    "fleet",
)


def measured(benches: Sequence[str], *, full: bool) -> Iterator[Row]:
    """All rows, as they come; a benchmark that breaks is a row that has failed, and the next one goes on."""
    context = multiprocessing.get_context("spawn")
    for bench in benches:
        with ProcessPoolExecutor(1, mp_context=context) as alone:
            try:
                yield from alone.submit(rows_of, bench, full=full).result()
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost the other figures
                yield Row(bench, math.nan, "", f"{type(error).__name__}: {error}".replace("\n", " "))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    load = os.getloadavg()[0]
    return {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version(), "load": load}


def main() -> int:
    """Print the table; 1 where a limit was missed or a benchmark broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benches", nargs="*", metavar="NAME", help=f"which ones (default: all): {', '.join(BENCHES)}")
    parser.add_argument("--full", action="store_true", help="the stated counts, instead of a quick form")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    unknown = set(options.benches) - set(BENCHES)
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    before, began, rows = machine(), time.monotonic(), []
    if not options.json:
        say("{cores} cores, {system}, Python {python}, load {load:.1f} before\n".format(**before))
        say(HEADER)
    for row in measured(options.benches or BENCHES, full=options.full):
        rows.append(row)
        if not options.json:
            say(line(row))
    if options.json:
        say(json.dumps({"machine": before, "full": options.full, "rows": [row.to_dict() for row in rows]}))
    else:
        missed = sum(row.verdict == "FAILED" for row in rows)
        say(f"\n{len(rows)} figures in {time.monotonic() - began:,.0f} s, {missed} failed")
    return int(failed(rows))


def say(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
