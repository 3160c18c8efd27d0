"""What stands before the page: whose requests are answered at all, and what a browser may do with the answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from streams.settings import LOOPBACK_NAMES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
ALWAYS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """Answers only what was sent to this page by its own name, and from itself where a browser sends it.

    A page of somebody else's whose name was made to mean this machine (DNS rebinding) sends that name as `Host`; one
    that reaches over sends its own as `Origin`. Who is no browser sends no `Origin`.
    """

    def __init__(self, app: Asgi, host: str) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request or one socket."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"])
        host, origin = (said.get(name, b"").decode("latin-1") for name in (b"host", b"origin"))
        why = self._trouble(host, origin)
        if why is None:
            await self._app(scope, receive, _guarded(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _answer(_guarded(send), 403, why)

    def _trouble(self, host: str, origin: str) -> str | None:
        name = name_of(host)
        if not is_own(name, self._host):
            return f"this page is not called {name!r}: open the address that `esper serve` printed"
        if origin and urlsplit(origin).netloc.lower() != host.lower():
            return "a page from elsewhere may not ask this one"
        return None


def name_of(host: str) -> str:
    """The name in a `Host` header, in lower case, without the port; empty where it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def is_own(name: str, bound: str) -> bool:
    """Whether a page bound to the address `bound` may be called so.

    By loopback's names and addresses always; where it is bound to another address, by addresses, which no foreign name
    service has a say in, and by that name.
    """
    if not name:
        return False
    if is_loopback(name) or name == bound.lower():
        return True
    return not is_loopback(bound) and _address(name) is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine can mean itself by it."""
    address = _address(host)
    return host.lower() in LOOPBACK_NAMES if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _guarded(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] in {"http.response.start", "websocket.http.response.start"}:
            message = {**message, "headers": [*message.get("headers", ()), *ALWAYS]}
        await send(message)

    return sending


async def _answer(send: Send, status: int, text: str) -> None:
    body = text.encode()
    head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
