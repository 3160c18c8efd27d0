"""A process with several readers, for `test_readers`: each asks again and again, and says what it saw.

    python tests/integration/archive/reader.py ARCHIVE THREADS SECONDS

One JSON object on stdout: how often was asked, the wrong answers, the errors.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from projections import open_history

QUERY = "SELECT (SELECT count(*) FROM log.every) + (SELECT count(*) FROM log.invalid), (SELECT count(*) FROM events)"
PER_RUN = """
    SELECT count(*) FROM (
        SELECT run_id, count(DISTINCT sequence) AS held, max(sequence) AS reached FROM log.facts GROUP BY run_id
    ) WHERE held <> reached
"""


def read(archive: Path, until: float, told: dict[str, list]) -> None:
    """Ask until a moment, twice at least: the count is the manifest's and never falls, and no run has a hole."""
    before, asked = 0, 0
    try:
        with open_history(archive) as history:
            history.connection.execute("SET threads = 1")
            while time.monotonic() < until or asked < 2:
                history.refresh()
                expected = sum(history.manifest.next_offsets.values())
                count, events = history.connection.execute(QUERY).fetchone()
                (torn,) = history.connection.execute(PER_RUN).fetchone()
                told["asked"].append(count)
                if (count, events, torn) != (expected, expected, 0) or count < before or history.damage:
                    told["wrong"].append([expected, count, events, torn, [str(each) for each in history.damage]])
                before, asked = count, asked + 1
                time.sleep(0.5)  # as a person or a dashboard would; fifty without a pause only measure the processor
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the test looks for
        told["errors"].append(repr(error))


def main(archive: Path, threads: int, seconds: float) -> None:
    """All readers at once."""
    told: dict[str, list] = {"asked": [], "wrong": [], "errors": []}
    until = time.monotonic() + seconds
    readers = [threading.Thread(target=read, args=(archive, until, told)) for _ in range(threads)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    sys.stdout.write(json.dumps({**told, "asked": len(told["asked"]), "most": max(told["asked"], default=0)}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
