"""How long the epoch hook takes in a real run: packet published → decision applied and logged. `--help` for options.

Fixture: `esper run` of the default task, without its control run unless `--control` is given, each run in a data folder
of its own with everything beside it: embedded broker, decider, worker, archiver, forge, and the command that watches.
The hooks of all runs are pooled and none is left out. They are the trainer's own figures, read from the archive, and so
are the parts that they sum to (R-TOL-1). Limits, on two quiet cores: p50 ≤ 5 ms (8 ms with a control run), p99 ≤ 18 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from projections import open_history
from projections.history import History
from tests.bench.table import Row

RUNS = 10
QUICK_RUNS = 3
LIMITS_MS = {"p50": 5.0, "p95": 18.0, "p99": 18.0}
PARTS_P95_MS = {
    "latency_ms": 18.0,
    "assembly_ms": 3.5,
    "decision_ms": 12.0,
    "command_ms": 1.5,
    "acknowledgement_ms": 1.0,
}
"""R-TOL-1: the four parts that it is made of."""

_PARTS = """
    SELECT part, list(spent_ms)
    FROM (UNPIVOT (SELECT COLUMNS('_ms$') FROM hooks) ON * INTO NAME part VALUE spent_ms) GROUP BY part ORDER BY part
"""


def rows(*, full: bool = False) -> list[Row]:
    """The architecture's row, as its median and its slowest hundredth, and the slowest twentieth of each part."""
    runs = RUNS if full else QUICK_RUNS
    parts = pooled(measured(seed, ["--no-control"]) for seed in range(runs))
    hooks = parts["latency_ms"]
    fixture = f"{runs} x `esper run --no-control` with all its processes, {len(hooks)} hooks, none left out"
    cuts = percentiles(hooks)
    whole = [Row(f"epoch hook of a run, {part}", cuts[part], "ms", fixture, LIMITS_MS[part]) for part in LIMITS_MS]
    return whole + [
        Row(f"of it {part.removesuffix('_ms')}, p95", percentiles(parts[part])["p95"], "ms", fixture, limit)
        for part, limit in PARTS_P95_MS.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=int, default=RUNS, help="how many, each with a seed of its own (default: %(default)s)"
    )
    parser.add_argument("--control", action="store_true", help="with the control run beside each")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("arguments", nargs="*", help="further options of `esper run`, after --")
    options = parser.parse_args()
    arguments = [*([] if options.control else ["--no-control"]), *options.arguments]
    found = pooled(measured(seed, arguments) for seed in range(options.runs))
    figures = {part: percentiles(values) for part, values in found.items()}
    if options.json:
        sys.stdout.write(json.dumps({"load_average_1m": os.getloadavg()[0], **figures}) + "\n")
        return
    for part, cuts in figures.items():
        sys.stdout.write(f"{part:<24}" + "".join(f"{name:>6}{value:>9.3f}" for name, value in cuts.items()) + "\n")


def pooled(runs: Iterable[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """The figures of all runs in one list for each part, in milliseconds; `latency_ms` is the whole hook."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for part, values in run.items():
            found.setdefault(part, []).extend(values)
    return found


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Median, the slowest tenth, twentieth and hundredth, and the slowest of all."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p90": cuts[89], "p95": cuts[94], "p99": cuts[98], "max": max(values)}


def measured(seed: int, arguments: Sequence[str]) -> dict[str, list[float]]:
    """One run from its start to its end; raises SystemExit with what it said where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "esper.cli", "run", "--json", "--data-dir", folder, "--seed", str(seed)]
        run = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise SystemExit(f"esper run ended with exit code {run.returncode}: {run.stderr.strip().splitlines()[-1:]}")
        with open_history(Path(folder) / "archive") as history:
            return measured_in(history)


def measured_in(history: History) -> dict[str, list[float]]:
    """The hooks' parts of all runs in a history, in milliseconds."""
    return {str(part): [float(value) for value in values] for part, values in history.execute(_PARTS).fetchall()}


if __name__ == "__main__":
    main()
