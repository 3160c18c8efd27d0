"""A life that is kept: a tiny run that an earlier Esper trained, as its log had it, without telemetry.

`python -m tests.unit.retrace.keep_life` writes that of this version, once: `kept/life_<version>.gz`. It belongs to
every release (docs/releases.md), and no later one may change it. `kept/life_0_1_0.gz` was written in the tree of
commit c4e31d1, of version 0.1.0. It grows two seeds, loses a step to a loss that is no number, goes back at a person's
command and takes another learning rate.
"""

from __future__ import annotations

import base64
import gzip
import sys
import tempfile
from pathlib import Path

from esper import __version__
from esper.leyline.envelope import Event

KEPT = Path(__file__).parent / "kept"
LEFT_OUT = ("step_sampled", "telemetry_packet")


def life_of(version: str) -> Path:
    """Where the life of a release is kept."""
    return KEPT / f"life_{version.replace('.', '_')}.gz"


def keep(file: Path) -> None:
    """Train the run and write its events, and the commands that a person sent."""
    from tests.unit.retrace.conftest import Lived

    with tempfile.TemporaryDirectory() as folder:
        life = Lived(Path(folder))
        script = {4: life.germinate("s1"), 9: life.germinate("s2", "BP008"), 20: life.go_back("fast")}
        life.train(script | {24: life.set_rate(0.004)}, faults=(14,))
        events = [event for event in life.log.events if event.WhichOneof("body") not in LEFT_OUT]
        lines = [("event", event) for event in events] + [("request", event) for event, _ in life.log.requests]
    text = "\n".join(f"{kind} {base64.b64encode(event.SerializeToString()).decode()}" for kind, event in lines)
    file.write_bytes(gzip.compress(text.encode(), mtime=0))


def kept(name: str) -> tuple[list[Event], list[Event]]:
    """The events of a life, and the commands that a person sent."""
    found: dict[str, list[Event]] = {"event": [], "request": []}
    for line in gzip.decompress((KEPT / name).read_bytes()).decode().splitlines():
        kind, content = line.split(" ")
        found[kind].append(Event.FromString(base64.b64decode(content)))
    return found["event"], found["request"]


def main() -> None:
    """Keep the life of this version."""
    file = life_of(__version__)
    if file.exists():
        sys.exit(f"{file.name} is kept already")
    keep(file)


if __name__ == "__main__":
    main()
