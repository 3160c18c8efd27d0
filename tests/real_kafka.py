"""Apache Kafka on loopback, as `../shared/kafka` starts it, for tests that only a real log can answer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

TOOL: Final = next(
    (
        found
        for parent in Path(__file__).resolve().parents
        if (found := parent / "shared" / "kafka" / "kafka").is_file()
    ),
    None,
)


class RealKafka:
    """Brokers with their data in a folder; `address` names all of them, and stays the same whatever is killed."""

    def __init__(self, folder: Path, nodes: int = 1) -> None:
        if TOOL is None or shutil.which("java") is None:
            pytest.skip("Apache Kafka needs Java and ../shared/kafka, and one of them is not here")
        self._folder, self._nodes = folder, nodes
        self.address = self.start()

    def start(self) -> str:
        """Start those that are not up."""
        return self._do("start", "--nodes", str(self._nodes)).split()[-1]

    def kill(self, node: int) -> None:
        """Kill one broker, from 1 on."""
        self._do("kill", "--node", str(node))

    def stop(self) -> None:
        """Stop all."""
        self._do("stop")

    def _do(self, verb: str, *options: str) -> str:
        assert TOOL is not None
        done = subprocess.run(
            [TOOL, verb, self._folder, *options], capture_output=True, text=True, timeout=180, check=True
        )
        return done.stdout
