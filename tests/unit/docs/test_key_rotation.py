"""docs/key-rotation.md is executed: after each of its steps every process accepts what those before and after sign."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from esper.leyline.signing import KeyRing
from streams.keys import load_key_ring
from streams.settings import Settings

PAGE = Path(__file__).parents[3] / "docs" / "key-rotation.md"
SECOND_NS = 1_000_000_000
KEYS = ("ESPER_KEY", "ESPER_KEY_PREVIOUS", "ESPER_KEYS_RETIRED")


def environments() -> list[dict[str, str]]:
    """The variables of a process before the first step and after each of the three, as the page's lines set them."""
    steps = re.findall(r"\*\*\d\. .*?```\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    show = f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    script = "\n".join(
        ["set -eu", f'python() {{ {sys.executable} "$@"; }}', show, *(f"{step}\n{show}" for step in steps)]
    )
    told = subprocess.run(
        ["bash"], input=script, env={"ESPER_KEY": "a1" * 32, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [
        {name: value for name, value in json.loads(line).items() if name in KEYS} for line in told.stdout.splitlines()
    ]


@pytest.fixture(scope="module")
def rings() -> list[KeyRing]:
    made = []
    for environment in environments():
        with pytest.MonkeyPatch.context() as patch:
            for name in Settings.model_fields:
                patch.delenv(f"ESPER_{name.upper()}", raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            made.append(load_key_ring(Settings.load(), "broker:9092"))
    return made


@pytest.mark.requirement("R-SEC-12")
def test_at_every_moment_each_process_accepts_what_each_other_one_signs(rings):
    """Processes are restarted one after the other, so those of two steps are there at a time."""
    now = time.time_ns()

    assert len(rings) == 4
    for before, after in pairwise(rings):
        assert [ring.verify(other.sign(b"x"), now) for ring in (before, after) for other in (before, after)] == [
            None
        ] * 4


@pytest.mark.requirement("R-SEC-11")
def test_afterwards_the_old_key_verifies_what_came_before_and_nothing_else(rings):
    old, new = rings[0].sign(b"x"), rings[-1].sign(b"x")
    (retired_ns,) = rings[-1].retired.values()

    assert old.key_id != new.key_id
    assert rings[-1].verify(old, retired_ns - SECOND_NS) is None
    assert rings[-1].verify(old, retired_ns + SECOND_NS) == "invalid_signature"
    assert rings[-1].verify(new, retired_ns + SECOND_NS) is None


def test_without_the_first_step_somebody_would_refuse_somebody(rings):
    """Why there are three."""
    assert rings[0].verify(rings[2].sign(b"x"), time.time_ns()) == "invalid_signature"
