"""What holds for every test: what a busy machine or the caller's shell does says nothing about the code."""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("esper", deadline=None, database=None)
settings.load_profile("esper")

# A shell without job control starts background jobs with SIGINT ignored, and children inherit that. Under such a caller
# (a CI runner), Ctrl-C would reach nothing that a test starts. A handler is not inherited: children get the default.
signal.signal(signal.SIGINT, signal.default_int_handler)
