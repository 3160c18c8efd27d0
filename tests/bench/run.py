"""What `esper run` costs: wall time, and the memory of all its processes together. `--help` for options.

Fixture: the default task with its control run, a data folder of its own, nothing else of Esper running. Memory is PSS
(`/proc/PID/smaps_rollup`: shared pages are shared out among those that use them), summed over the command, the
supervisor and all their children, sampled every 0.2 s; the peak is of the sum. Processor time is of the same processes,
without what they used after their last sample. Limits (architecture): at most 60 s on two cores, at most 1 GiB, 700 MiB
aimed at.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.bench.table import Row

SAMPLE_S = 0.2
_PSS = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("arguments", nargs="*", help="options of `esper run`, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.arguments)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:<34}{value:>12.3f}\n")


def rows(*, full: bool = False) -> list[Row]:  # a shorter one would measure something else
    """The architecture's rows."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder) / "both", [])
        alone = measure(Path(folder) / "alone", ["--no-control"])
    fixture = f"default task, control and static run, {figures['epochs']:.0f} epochs, {psutil.cpu_count()} cores"
    first_step_s = alone["first_step_s"] - alone["torch_import_s"]
    return [
        Row("`esper run`, start to exit", figures["wall_s"], "s", f"{fixture}, installed already", 60.0),
        Row("peak memory of it, all processes", figures["peak_pss_mib"], "MiB PSS", f"{fixture}; 700 aimed at", 1024.0),
        Row("first step beyond torch's import", first_step_s, "s", "the default task alone", 1.0),
        Row("prompt after the last step", alone["prompt_s"], "s", "the default task alone", 0.7),
        Row("processor time of a run", alone["cpu_s"], "s", "the default task alone, all processes", 11.0),
        Row("epoch hook, p50", figures["hook_ms_p50"], "ms", fixture),
        Row("epoch hook, p99", figures["hook_ms_p99"], "ms", fixture),
    ]


def measure(data_dir: Path, arguments: list[str]) -> dict[str, float]:
    """The figures, in the units of their names; memory is also given by process at the moment of the peak."""
    command = [sys.executable, "-m", "esper.cli", "run", "--json", "--data-dir", str(data_dir), *arguments]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak: Counter[str] = Counter()
    while process.poll() is None:
        peak = max(peak, sample(data_dir), key=lambda memory: memory.total())
        time.sleep(SAMPLE_S)
    wall_s = time.monotonic() - began
    stdout, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"esper run ended with exit code {process.returncode}")
    result = json.loads(stdout.splitlines()[-1])
    return {
        "wall_s": wall_s,
        **{name: result[name] for name in ("first_step_s", "torch_import_s", "prompt_s", "cpu_s")},
        "epochs": result["epochs"],
        "hook_ms_p50": result["hook_ms"]["p50"],
        "hook_ms_p99": result["hook_ms"]["p99"],
        "peak_pss_mib": peak.total() / 1024,
        **{f"peak_pss_mib.{name}": kib / 1024 for name, kib in sorted(peak.items())},
    }


def sample(data_dir: Path) -> Counter[str]:
    """PSS in KiB of every process of the data folder, by its name."""
    found: Counter[str] = Counter()
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if not any(Path(word).is_relative_to(data_dir) for word in words):
                continue
            pss = _PSS.search(Path(f"/proc/{process.pid}/smaps_rollup").read_text())
        except (psutil.Error, OSError):
            continue  # it has just ended
        found[process.name()] += int(pss[1]) if pss else 0
    return found


if __name__ == "__main__":
    main()
