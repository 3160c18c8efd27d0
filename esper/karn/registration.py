"""The catalogue as it is told on the log: every template's facts and its risk data sheet, each said once for ever.

The facts are read from `registered.json`, which a test holds equal to the templates, so that the worker can say them
without loading torch. `python -m esper.karn.registered` writes the file anew after a template has changed.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from google.protobuf import json_format

from contracts.leyline.v1.event_pb2 import BlueprintRegistered
from contracts.leyline.v1.leyline_pb2 import BSDSIssued
from esper.karn.risk_sheet import risk_sheet
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event

PRODUCER: Final = "karn"
FILE: Final = "registered.json"


@lru_cache(maxsize=1)
def facts() -> tuple[BlueprintRegistered, ...]:
    """What there is to say of each of the 50 templates, in order of ids."""
    lines = resources.files("esper.karn").joinpath(FILE).read_text("utf-8").splitlines()
    return tuple(json_format.Parse(line, BlueprintRegistered()) for line in lines)


def registration(now_ns: int) -> list[Event]:
    """Two events a template: its facts and its risk data sheet.

    An event's id is derived from what it says, so what was said before is known by its id, and a template that changes
    is registered anew.
    """
    events = []
    for body in facts():
        sheet = BSDSIssued(bsds=risk_sheet(body.descriptor, issued_at_ns=now_ns))
        said = BSDSIssued(bsds=sheet.bsds)
        said.bsds.ClearField("issued_at")
        events += [_event(body, body, now_ns), _event(sheet, said, now_ns)]
    return events


def _event(body: Any, said: Any, now_ns: int) -> Event:
    content = hashlib.sha256(said.SerializeToString(deterministic=True)).digest()
    event_id = ids.derived_id(content, f"karn.{said.DESCRIPTOR.name}")
    return new_event(body, event_id=event_id, run_id="", producer=PRODUCER, recorded_at_ns=now_ns)
