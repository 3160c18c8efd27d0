"""The one way to say no: a Kafka error code with a sentence for whoever reads the broker's output."""

from __future__ import annotations

from kio.schema.errors import ErrorCode


class Refused(Exception):
    """A request, or one part of it, is answered with `code`; nothing was changed."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class Malformed(Exception):
    """Bytes that are no request of an advertised version: the connection that sent them is closed."""
