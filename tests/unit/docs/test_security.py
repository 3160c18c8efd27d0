"""The security page names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
CELL = re.compile(r"`((?:unit|integration|e2e|checker)/[a-z0-9_/]+\.py)?(?:::(test_[a-z0-9_]+))?`")


def test_every_test_of_the_security_page_exists():
    file, seen = "", 0
    for named, test in CELL.findall((ROOT / "docs" / "security.md").read_text(encoding="utf-8")):
        file = named or file
        text = (ROOT / "tests" / file).read_text(encoding="utf-8") if file else ""
        assert not test or f"def {test}(" in text, f"{file} has no {test}"
        seen += bool(named or test)
    assert seen > 40
