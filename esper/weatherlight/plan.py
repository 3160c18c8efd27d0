"""How a trainer begins: at a run's first step, by resuming one, or by leaving one as another."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

Beginning = Literal["start", "resume", "fork"]


@dataclass(frozen=True, slots=True)
class Plan:
    """`source` is what the run that is gone on with recorded of its task; a fork leaves `parent` at `step`."""

    begin: Beginning = "start"
    source: str = ""
    parent: str = ""
    step: int = 0
    change: str = ""

    def to_json(self) -> str:
        """As it goes to the trainer's process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What `to_json` wrote."""
        return cls(**json.loads(text))
