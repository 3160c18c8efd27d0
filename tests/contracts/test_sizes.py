"""Messages stay small (R-LEY-7 to R-LEY-9, with a limit for each): what one grows by, every history grows by.

Times are measured by tests.bench.contracts; here only what does not depend on how busy the machine is.
"""

from __future__ import annotations

import pytest

from esper.leyline import limits

MESSAGES = [name for name in limits.PAYLOAD_BYTES if name != "envelope around a body"]


@pytest.mark.requirement("R-KAS-39", "R-TAM-52", "R-LEY-7", "R-LEY-8", "R-LEY-9")
@pytest.mark.parametrize("name", MESSAGES)
def test_a_reference_message_fits(bench, name):
    assert bench.payload_bytes(name) < limits.PAYLOAD_BYTES[name]


@pytest.mark.parametrize("name", MESSAGES)
def test_the_envelope_adds_little(bench, name):
    assert bench.envelope_bytes(name) <= limits.PAYLOAD_BYTES["envelope around a body"]
