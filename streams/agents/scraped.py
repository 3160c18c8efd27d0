"""What processes of this data folder say of themselves when they are asked: the samples that must not come by the log.

The depth of a queue in front of the log would arrive behind the queue; so Nissa's worker asks each process at the pages
that Prometheus scrapes. They are found as Prometheus finds them, by the lists of targets in the folder `run`.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from esper.nissa.measure import Sample

WATCHED: Final = {"trainer-*.json": "esper_oona_queue_depth", "forge.json": "esper_tezzeret_mode_conservative"}
"""Metrics that alerts watch and no event carries, by whose they are."""
ANSWER_S: Final = 1.0
_TRAINER: Final = "trainer-"


def scraped(run_folder: Path) -> Iterator[Sample]:
    """The watched samples of every process that answers; those of a trainer are about its run."""
    for pattern, name in WATCHED.items():
        for path in sorted(run_folder.glob(pattern)):
            scope = path.stem.removeprefix(_TRAINER)
            yield from (Sample(name, value, scope) for value in _asked(path, name))


def trains(run_folder: Path) -> bool:
    """Whether a trainer of this folder says that it may be asked."""
    return any(run_folder.glob(f"{_TRAINER}*.json"))


def _asked(path: Path, name: str) -> list[float]:
    """The values of a metric of one process; none where it has ended without taking its list of targets back."""
    try:
        host, port = json.loads(path.read_text())[0]["targets"][0].rsplit(":", 1)
        asked = http.client.HTTPConnection(host, int(port), timeout=ANSWER_S)
        asked.request("GET", "/metrics")
        lines = asked.getresponse().read().decode().splitlines()
        asked.close()
    except (OSError, ValueError, LookupError, http.client.HTTPException):
        return []
    ours = "\n".join(line for line in lines if line.startswith((f"{name} ", f"{name}{{")))
    return [each.value for family in text_string_to_metric_families(f"{ours}\n") for each in family.samples]
