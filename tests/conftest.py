"""What holds for every test: property tests have no deadline, because a busy machine says nothing about the code."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("esper", deadline=None, database=None)
settings.load_profile("esper")
