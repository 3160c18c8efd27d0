"""What is told of the catalogue on the log: what the templates say, once for ever, without loading torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from contracts.leyline.v1 import leyline_pb2 as leyline
from esper.karn.registration import descriptor, registered, registration
from esper.karn.table import CATALOGUE, find
from esper.leyline.envelope import body_name

ALONE = "import sys, esper.karn.registration as r; r.registration(1); sys.exit('torch' in sys.modules)"


def test_it_says_what_the_templates_say():
    told = [event.blueprint_registered for event in registration(5)[::2]]

    assert told == [registered(blueprint) for blueprint in CATALOGUE.values()]


def test_every_template_is_registered_and_has_a_risk_sheet():
    events = registration(5)

    assert [body_name(event) for event in events] == ["blueprint_registered", "bsds_issued"] * len(CATALOGUE)
    assert {event.bsds_issued.bsds.blueprint_id for event in events[1::2]} == set(CATALOGUE)
    assert list(events[0].blueprint_registered.tags) == ["identity"]


def test_ids_are_those_of_what_is_said_whenever_that_is():
    first, later = registration(5), registration(6)

    assert [event.event_id for event in first] == [event.event_id for event in later]
    assert len({event.event_id for event in first}) == len(first)


@pytest.mark.requirement("R-KARN-17")
def test_a_descriptor_says_what_the_template_is_and_may_be_edited():
    """R-KARN-17."""
    message = descriptor(find("BP036"))
    assert (message.tier, message.stage, message.approval_required, message.quarantine_only) == (
        leyline.BLUEPRINT_TIER_EXPERIMENTAL,
        5,
        True,
        False,
    )
    assert {name: (b.min_value, b.max_value) for name, b in message.allowed_parameters.items()} == {
        "experts": (4.0, 8.0),
        "capacity": (1.0, 2.0),
    }
    message.name = "changed"
    message.allowed_parameters["experts"].max_value = 99.0
    assert descriptor(find("BP036")).allowed_parameters["experts"].max_value == 8.0
    assert list(registered(find("BP031")).shape_kinds) == ["token"]


def test_it_is_told_without_torch():
    assert subprocess.run([sys.executable, "-c", ALONE], check=False).returncode == 0
