"""The catalogue as it is told on the log: every template's facts and its risk data sheet, each said once for ever.

The facts are those of `esper.karn.table`, so that the worker can say them without loading torch.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from contracts.leyline.v1.leyline_pb2 import BSDSIssued
from esper.karn.descriptor import registered
from esper.karn.risk_sheet import risk_sheet
from esper.karn.table import facts
from esper.leyline import ids
from esper.leyline.envelope import Event, new_event

PRODUCER: Final = "karn"


def registration(now_ns: int) -> list[Event]:
    """Two events a template: its facts and its risk data sheet.

    An event's id is derived from what it says, so what was said before is known by its id, and a template that changes
    is registered anew.
    """
    events = []
    for body in map(registered, facts().values()):
        sheet = BSDSIssued(bsds=risk_sheet(body.descriptor, issued_at_ns=now_ns))
        said = BSDSIssued(bsds=sheet.bsds)
        said.bsds.ClearField("issued_at")
        events += [_event(body, body, now_ns), _event(sheet, said, now_ns)]
    return events


def _event(body: Any, said: Any, now_ns: int) -> Event:
    content = hashlib.sha256(said.SerializeToString(deterministic=True)).digest()
    event_id = ids.derived_id(content, f"karn.{said.DESCRIPTOR.name}")
    return new_event(body, event_id=event_id, run_id="", producer=PRODUCER, recorded_at_ns=now_ns)
