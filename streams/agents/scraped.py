"""What processes of this data folder say of themselves when they are asked: the samples that must not come by the log.

The depth of a queue in front of the log would arrive behind the queue; so Nissa's worker asks each process at the pages
that Prometheus scrapes. They are found as Prometheus finds them, by the lists of targets in the folder `run`.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from esper.nissa.measure import Sample

WATCHED: Final = {
    "trainer-*.json": ("esper_oona_queue_depth", "esper_oona_log_up"),
    "load-*.json": ("esper_oona_queue_depth",),
    "forge.json": ("esper_tezzeret_mode_conservative",),
    "broker.json": ("esper_broker_unwritable",),
}
"""Metrics that alerts watch and no event carries, by whose they are."""
METRICS: Final = frozenset(name for names in WATCHED.values() for name in names)
ANSWER_S: Final = 1.0
_TRAINER: Final = "trainer-"
PASSING: Final = (_TRAINER, "load-")
"""Whose names no later process has."""


def scraped(run_folder: Path) -> Iterator[Sample]:
    """The watched samples of every process that answers; those of a trainer are about its run."""
    for path, scope, names in _listed(run_folder):
        yield from (Sample(name, value, scope) for name, value in _asked(path, names))


def present(run_folder: Path) -> set[str]:
    """The scopes of all that may be asked, whether it answers or not."""
    return {scope for _, scope, _ in _listed(run_folder)}


def _listed(run_folder: Path) -> Iterator[tuple[Path, str, Sequence[str]]]:
    for pattern, names in WATCHED.items():
        for path in sorted(run_folder.glob(pattern)):
            yield path, path.stem.removeprefix(_TRAINER), names


def trains(run_folder: Path) -> bool:
    """Whether a trainer of this folder, or a load test, says that it may be asked."""
    return any(path for name in PASSING for path in run_folder.glob(f"{name}*.json"))


def _asked(path: Path, names: Sequence[str]) -> list[tuple[str, float]]:
    """Metrics of one process, each with its value; none where it does not answer.

    One that was killed left its list of targets behind: it is taken away, for Prometheus too. That of a service may be
    another's by now, which was started in its place.
    """
    try:
        host, port = json.loads(path.read_text())[0]["targets"][0].rsplit(":", 1)
        asked = http.client.HTTPConnection(host, int(port), timeout=ANSWER_S)
        asked.request("GET", "/metrics")
        lines = asked.getresponse().read().decode().splitlines()
        asked.close()
    except ConnectionRefusedError:
        if path.name.startswith(PASSING):
            path.unlink(missing_ok=True)
        return []
    except (OSError, ValueError, LookupError, http.client.HTTPException):
        return []
    begin = tuple(f"{name}{after}" for name in names for after in (" ", "{"))
    ours = "\n".join(line for line in lines if line.startswith(begin))
    families = text_string_to_metric_families(f"{ours}\n")
    return [(each.name, each.value) for family in families for each in family.samples]
