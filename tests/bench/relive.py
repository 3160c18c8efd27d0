"""How fast a run is lived again, beside the run itself: `python -m tests.bench.relive`, about half a minute.

Fixture: a grown run of digits on a log in memory with Tamiyo in process, so that neither side waits for a broker; one
thread. The run and its replay alternate and the fastest of each counts, because all above that is the machine's doing.
A replay computes what the run computed and writes nothing; a resume's first half is a replay from the last checkpoint.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from esper.leyline.envelope import body_name
from esper.leyline.objects import ObjectStore
from esper.record import Recorded
from esper.testing import REAL_CLOCK, MemoryLog, signed
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Outside
from esper.tolaria.replay import replay_run
from esper.tolaria.tasks import load_task
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from tests.bench.table import HEADER, Row, failed, line

REQUESTS = ("decision_made", "adaptation_command")


def rows(*, full: bool = False) -> list[Row]:
    """Speed of the run and of its replay."""
    epochs, repeats = (20, 5) if full else (8, 3)
    config = RunConfig(task="digits", epochs=epochs, seed=1, decision_timeout_s=None)
    fixture = f"digits, heuristic, {epochs} epochs, log in memory, fastest of {repeats}"
    task, lived, relived = load_task(config.task), [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            objects = ObjectStore(Path(folder))
            log = MemoryLog(objects=objects)
            began = time.perf_counter()
            train(config, task, LiveWorld(Outside(log, REAL_CLOCK, objects)), run_id="run")
            lived.append(time.perf_counter() - began)
            asked = ((event, signed(event)) for event in log.events if body_name(event) in REQUESTS)
            recorded = Recorded.of("run", (event for event in log.events if event.sequence), asked)
            replayed = replay_run(recorded, task, objects=objects, clock=REAL_CLOCK)
            assert replayed.diverged is None, str(replayed.diverged)
            relived.append(replayed.wall_s)
    steps = replayed.steps
    return [
        Row("replay: steps of the run", steps / min(lived), "steps/s", fixture),
        Row("replay: steps lived again", steps / min(relived), "steps/s", fixture),
        Row("replay: time of the run that it takes", min(relived) / min(lived), "", fixture, 1.5),
    ]


def main() -> int:
    """Print the table; 1 where a limit was missed."""
    sys.stdout.write(HEADER + "\n")
    found = rows(full="--full" in sys.argv)
    for row in found:
        sys.stdout.write(line(row) + "\n")
    return int(failed(found))


if __name__ == "__main__":
    sys.exit(main())
