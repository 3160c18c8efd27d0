"""A connection whose process is killed at a statement that a test chooses; imported by the process that dies."""

from __future__ import annotations

import os
import signal
from typing import Any


class Mortal:
    """A DuckDB connection that dies with its process at the `left`-th statement."""

    def __init__(self, connection: Any, left: int) -> None:
        self.connection, self.left = connection, left

    def execute(self, *arguments: Any) -> Any:
        """The statement, unless it is the one to die at."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.connection.execute(*arguments)

    def __getattr__(self, name: str) -> Any:
        """All else is the connection's."""
        return getattr(self.connection, name)
