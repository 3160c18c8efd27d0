"""Every error that Esper raises on purpose.

EsperError
├── InvalidInput         the person who called: a task, option, file or site that does not exist or does not fit
├── Superseded           nobody: another process resumed the run, and this one has to leave it alone
├── LogUnavailable       the operator: the log does not answer, refuses, or its disk is full
├── Interrupted          the operator: the disk is full, memory or a device is gone; a run goes on once that is mended
├── ContractViolation    a producer: bytes that are no valid event, or an event that breaks its contract
├── IllegalTransition    a programmer: a seed was asked to make a move that its stage does not allow
├── BlendUnavailable     a programmer or a blueprint: a blending mode without what it needs
└── CorruptState         the operator: stored bytes do not match their digest

A message names the thing, the value and the way out, because the command line prints it as it stands.
"""

from __future__ import annotations


class EsperError(Exception):
    """Base of all of them: catch this to catch only what Esper foresees."""


class InvalidInput(EsperError):
    """Something a person gave does not exist or does not fit."""


class Superseded(EsperError):
    """Another process has claimed the run: whatever this one writes from now on is void, so it stops."""


class LogUnavailable(EsperError):
    """The log cannot be reached or does not accept what must be written."""


class Interrupted(EsperError):
    """A run was ended by what it runs on, and not by anything of its own."""


class ContractViolation(EsperError):
    """Bytes that are not a valid event, or an event that breaks its contract."""


class IllegalTransition(EsperError):
    """A seed was asked for a move that its stage does not allow; nothing was changed."""


class BlendUnavailable(EsperError):
    """A blending mode was asked for without what it needs; nothing was changed."""


class CorruptState(EsperError):
    """Stored bytes do not match the digest they are kept under."""
