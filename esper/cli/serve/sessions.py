"""Who may change something through the page: who has shown the token, for eight hours, twenty times a minute."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

SESSION_S: Final = 8 * 3600.0
CHANGES: Final = 20
"""In a minute and session (R-NIS-20); as many wrong tokens are looked at in a minute, of everybody together."""
MINUTE_S: Final = 60.0
MOST_SESSIONS: Final = 64
"""The oldest ends where more are begun: a page that is loaded anew begins another."""


class Refused(Exception):
    """A request that is not let in: the HTTP status, one line that says why, and when to try again."""

    def __init__(self, status: int, why: str, retry_s: float = 0.0) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.retry_s = math.ceil(retry_s)


@dataclass(slots=True)
class _Session:
    until: float
    spent: deque[float] = field(default_factory=lambda: deque(maxlen=CHANGES))


class Sessions:
    """The sessions of one token. Neither it nor a session's key is ever in an event or a log line."""

    def __init__(self, token: str, clock: Callable[[], float]) -> None:
        self._token = token.encode()
        self._clock = clock
        self._sessions: dict[bytes, _Session] = {}
        self._wrong: deque[float] = deque(maxlen=CHANGES)

    def begin(self, token: str) -> str:
        """The key of a new session for who shows the token; raises Refused for another one."""
        now = self._clock()
        _check(self._wrong, now, "too many wrong tokens; try again in {} s")
        if not hmac.compare_digest(token.encode(), self._token):
            self._wrong.append(now)
            raise Refused(401, "that is not the token of this page: open the address that `esper serve` printed")
        key = secrets.token_urlsafe(32)
        self._sessions = {each: held for each, held in self._sessions.items() if held.until > now}
        while len(self._sessions) >= MOST_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        self._sessions[_digest(key)] = _Session(now + SESSION_S)
        return key

    def check(self, key: str) -> None:
        """Raises Refused where there is no such session, or it has ended."""
        self._of(key)

    def spend(self, key: str) -> None:
        """Count one change; raises Refused where the session has ended, or has made twenty within a minute."""
        session, now = self._of(key), self._clock()
        _check(session.spent, now, f"{CHANGES} changes a minute are enough; try again in {{}} s")
        session.spent.append(now)

    def _of(self, key: str) -> _Session:
        # Found by its digest: how long that takes says nothing about the key.
        session = self._sessions.get(_digest(key))
        if session is None or session.until <= self._clock():
            raise Refused(401, "there is no session: open the address that `esper serve` printed")
        return session


def _check(spent: deque[float], now: float, why: str) -> None:
    if len(spent) == spent.maxlen and now - spent[0] < MINUTE_S:
        wait_s = MINUTE_S - (now - spent[0])
        raise Refused(429, why.format(math.ceil(wait_s)), wait_s)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
