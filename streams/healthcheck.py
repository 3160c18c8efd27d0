"""`python -m streams.healthcheck`: whether the processes of a data folder are well, for a container's health check.

Asks `/health` of every process that has its target in the data folder's `run/`, trainers left out: a run that fails is
no container that has to be started anew. Exit code 1, with a line for each that is not well, or where there is none.
With `--alive` a process that answers is well, whatever it says: one that waits for the log is not to be started anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from streams.settings import Settings

ANSWER_S: Final = 3.0
_TRAINERS: Final = "trainer-"


def troubles(run_folder: Path, *, alive: bool = False) -> list[str]:
    """What is not well, a line each; empty where all is. `alive` asks only who answers."""
    targets = {file.stem: _targets(file) for file in sorted(run_folder.glob("*.json"))}
    asked = {name: found for name, found in targets.items() if found and not name.startswith(_TRAINERS)}
    if not asked:
        return [f"no process of {run_folder.parent} runs; start them with `esper up`"]
    return [said for name, found in asked.items() for target in found if (said := _trouble(name, target, alive=alive))]


def _targets(file: Path) -> list[str]:
    """The addresses in a list of targets as Prometheus reads it; none in any other file, or one that has just gone."""
    try:
        listed: Any = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return []
    groups = listed if isinstance(listed, list) else []
    return [target for group in groups if isinstance(group, dict) for target in group.get("targets", ())]


def _trouble(name: str, target: str, *, alive: bool) -> str:
    try:
        with urllib.request.urlopen(f"http://{target}/health", timeout=ANSWER_S):
            return ""
    except urllib.error.HTTPError as error:
        if alive:
            return ""
        return f"{name} is not well: {error.read(10_000).decode(errors='replace').strip()}"
    except OSError as error:
        return f"{name} does not answer at {target}: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what is not well; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m streams.healthcheck", description="Whether processes are well.")
    parser.add_argument("--alive", action="store_true", help="only whether they answer, whatever they say of the log")
    asked = parser.parse_args(arguments)
    found = troubles(Settings.load().run_folder, alive=asked.alive)
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
