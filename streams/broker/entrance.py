"""Who may come in: SASL/PLAIN with the secret of the log's folder, before anything but the list of versions.

A client that names no secret learns so at once. What it asks first is answered with an authorization error, which
clients take as final and show; anything else ends its connection. A log that was started `--anonymous` lets anyone in.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, Final

from kio.schema.errors import ErrorCode

from streams.broker.core import NODE_ID, Caller, Core
from streams.broker.protocol import NO_TIME, Fields
from streams.broker.secret import USER

MECHANISM: Final = "PLAIN"
CLOSED: Final = (
    "this log lets in whoever names its secret (SASL_PLAINTEXT, PLAIN, user esper, password in log/secret of its data "
    "folder), or anyone where it was started with --anonymous"
)
NOBODYS: Final = "this-log-asks-for-its-secret"
"""The one topic that a client sees which asks for all of them and may see none."""
METADATA: Final = 3
HANDSHAKE: Final = 17
API_VERSIONS: Final = 18
AUTHENTICATE: Final = 36
STRANGERS_BYTES: Final = 64 * 1024
"""The greatest request of a client that has not said who it is."""


def handshake(_core: Core, _caller: Caller, request: Any) -> Fields:
    """Which mechanisms there are: one."""
    known = request.mechanism == MECHANISM
    code = ErrorCode.none if known else ErrorCode.unsupported_sasl_mechanism
    return {"error_code": code, "mechanisms": (MECHANISM,)}


def welcome(_core: Core, _caller: Caller, _request: Any) -> Fields:
    """Where anyone is let in, it does not matter who somebody says that he is."""
    return _verdict(ErrorCode.none, None)


def _verdict(code: ErrorCode, why: str | None) -> Fields:
    return {"error_code": code, "error_message": why, "auth_bytes": b"", "session_lifetime_ms": NO_TIME}


class Entrance:
    """What a connection goes through until it has named `secret`; then it is `passed`. `failed`: it is to be closed."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._greeted = False
        self.passed = False
        self.failed = False

    def heeds(self, key: int) -> bool:
        """Whether an API is answered here; whatever else is asked ends the connection."""
        return key in _HEEDED

    def answer(self, key: int, core: Core, caller: Caller, request: Any) -> Fields | None:
        """What is answered; None to a question for the versions, which says nothing of the log."""
        if key == API_VERSIONS:
            return None
        if key == HANDSHAKE:
            return self._handshake(core, caller, request)
        if key == AUTHENTICATE:
            return self._authenticate(core, caller, request)
        return _REFUSALS[key](core, caller, request)

    def _handshake(self, core: Core, caller: Caller, request: Any) -> Fields:
        answer = handshake(core, caller, request)
        self._greeted = answer["error_code"] is ErrorCode.none
        return answer

    def _authenticate(self, core: Core, caller: Caller, request: Any) -> Fields:
        if not self._greeted:
            self.failed = True
            return _verdict(ErrorCode.illegal_sasl_state, "SaslHandshake comes first")
        _, _, credentials = bytes(request.auth_bytes).partition(b"\0")
        self.passed = hmac.compare_digest(credentials, f"{USER}\0{self._secret}".encode())
        if self.passed:
            return _verdict(ErrorCode.none, None)
        self.failed = True
        core.refuse_stranger(caller, "a wrong secret")
        why = f"not the secret of this log: user {USER}, password in log/secret of its data folder"
        return _verdict(ErrorCode.sasl_authentication_failed, why)


def _metadata(core: Core, caller: Caller, request: Any) -> Fields:
    """Where the log is, which the client knows, and that it may see none of the topics."""
    core.refuse_stranger(caller, CLOSED)
    host, port = caller.reached
    names = [NOBODYS] if request.topics is None else [topic.name for topic in request.topics]
    denied = {"error_code": ErrorCode.topic_authorization_failed, "is_internal": False, "partitions": ()}
    return {
        "brokers": [{"node_id": NODE_ID, "host": host, "port": port, "rack": None}],
        "cluster_id": None,
        "controller_id": NODE_ID,
        "topics": [denied | {"name": name} for name in names],
    }


def _coordinator(core: Core, caller: Caller, _request: Any) -> Fields:
    core.refuse_stranger(caller, CLOSED)
    denied = {"error_code": ErrorCode.group_authorization_failed, "error_message": CLOSED}
    return denied | {"node_id": -1, "host": "", "port": -1}


def _producer_id(core: Core, caller: Caller, _request: Any) -> Fields:
    core.refuse_stranger(caller, CLOSED)
    return {"error_code": ErrorCode.cluster_authorization_failed, "producer_id": -1, "producer_epoch": -1}


def _topics(core: Core, caller: Caller, request: Any) -> Fields:
    core.refuse_stranger(caller, CLOSED)
    denied = {"error_code": ErrorCode.topic_authorization_failed, "error_message": CLOSED}
    return {"topics": [denied | {"name": topic.name} for topic in request.topics]}


_REFUSALS: Final[dict[int, Callable[[Core, Caller, Any], Fields]]] = {
    METADATA: _metadata,
    10: _coordinator,
    19: _topics,
    22: _producer_id,
}
_HEEDED: Final = frozenset({HANDSHAKE, API_VERSIONS, AUTHENTICATE, *_REFUSALS})
