"""docs/api.md is what the code says, and has all that `import esper` offers."""

from __future__ import annotations

import esper
from tests import api


def test_the_page_is_what_the_code_says():
    """After a change of a signature or a docstring: `python -m tests.api`."""
    assert api.PAGE.read_text("utf-8") == api.page()


def test_everything_that_esper_offers_is_on_it_with_a_docstring():
    assert {f"esper.{name}" for name in esper.__all__} <= {shown.name for shown in api.PUBLIC}
    assert "```\n\n\n" not in api.page()
