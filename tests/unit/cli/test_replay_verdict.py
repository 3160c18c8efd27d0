"""A run that comes to other bits is called diverged only where nothing differs that its bits depend on."""

from __future__ import annotations

import pytest

from esper.cli.replay import verdict
from esper.tolaria.divergence import Divergence, Place
from esper.tolaria.replay import Replayed

AT = Divergence(Place(20, 2, 1, 31, "state_digested"), "another state than on record", ("host/0.weight",), 1e-7)


@pytest.mark.parametrize("different", [[], ["processor Z80 then, 6502 now"]])
def test_another_machine_is_named_before_the_difference(different):
    lines = list(verdict("k3f9x2qa", Replayed(step=20, diverged=AT), 0.0, different))

    (told,) = [at for at, line in enumerate(lines) if "k3f9x2qa" in line]
    assert ("diverges" in lines[told]) is not bool(different)
    assert ("comes to other bits here" in lines[told]) is bool(different)
    assert [at for at, line in enumerate(lines) if "Z80" in line] == list(range(told))
    assert "step 20" in lines[told]
