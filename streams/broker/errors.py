"""The one way to say no: a Kafka error code with a sentence for whoever reads the broker's output."""

from __future__ import annotations

from kio.schema.errors import ErrorCode


class Refused(Exception):  # noqa: N818 - reads as what happened: `raise Refused(code, why)`
    """A request, or one part of it, is answered with `code`; nothing was changed."""

    def __init__(self, code: ErrorCode, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why


class Malformed(Exception):  # noqa: N818 - as above
    """Bytes that are no request of an advertised version: the connection that sent them is closed."""
