"""Why a log did not let a client of ours in, so that a person can mend it.

aiokafka writes that into its own log and raises that it is "unable to bootstrap". Every connection that it makes goes
through `create_conn`; what that raised last for an address is kept here, and `no_log` and `unavailable` say it. Patched
in aiokafka 0.14.0 (no issues known): that, and `Token`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any, Final
from weakref import WeakSet

import aiokafka.client
from aiokafka import conn
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from esper.errors import EsperError, LogUnavailable
from streams.security import time_of_own_certificate
from streams.settings import Settings

RECENT_S: Final = 60.0
CLOSING_S: Final = 1.0
_CLOSED: Final = "Connection at "
"""Stands in aiokafka's message where a broker hung up; no field says so."""
_CERTIFICATE: Final = {  # what OpenSSL says of the certificate that the log showed: X509_V_ERR_…
    9: "its certificate is not valid yet: correct the clock of the log's machine or of this one",
    10: "its certificate has expired: whoever runs the log has to renew it",
    **dict.fromkeys(
        (2, 18, 19, 20, 21),
        "its certificate is signed by nobody who is trusted here: set ESPER_SSL_CAFILE to the certificate of who "
        "signed it",
    ),
    **dict.fromkeys(
        (62, 63, 64),
        "its certificate is of another name: set ESPER_BROKERS to the name that stands in it",
    ),
}
_OF_OURS: Final = {
    9: "is not valid yet: correct the clock of this machine, or set ESPER_SSL_CERTFILE to another",
    10: "has expired: have it renewed, and set ESPER_SSL_CERTFILE to the new one",
}
_NOT_TAKEN: Final = "is not taken: set ESPER_SSL_CERTFILE to one that is signed by whom the log trusts"
_LAST: Final[dict[str, tuple[float, Exception]]] = {}
"""Of each address where connecting failed since it worked last: when, and with what."""
_OPEN: Final[WeakSet[asyncio.Future[None]]] = WeakSet()
"""Of each connection, what is done when it is closed."""


async def create_conn(host: str, port: int, **settings: Any) -> Any:
    """aiokafka's, and what it raises is kept."""
    address, made = f"{host}:{port}", conn.AIOKafkaConnection(host, port, **settings)
    try:
        await made.connect()
    except (OSError, KafkaError, TimeoutError) as error:
        _LAST[address] = (time.monotonic(), error)
        if isinstance(error, KafkaError):  # it was connected, and is closed; with TLS that takes a moment
            await asyncio.wait([made._closed_fut], timeout=CLOSING_S)  # noqa: SLF001 - no other way to know
        raise
    except EsperError as error:  # a token provider may say why it has no token
        _LAST[address] = (time.monotonic(), error)
        raise KafkaConnectionError(str(error)) from None
    _LAST.pop(address, None)
    _OPEN.add(made._closed_fut)  # noqa: SLF001
    return made


async def all_closed() -> None:
    """Wait until what was closed in this loop is so: with TLS both sides say it, which a loop that ends cuts off."""
    here = asyncio.get_running_loop()
    if left := [each for each in _OPEN if each.get_loop() is here and not each.done()]:
        await asyncio.wait(left, timeout=CLOSING_S)


class Token(conn.OAuthAuthenticator):  # type: ignore[misc]
    """aiokafka's, which takes a token for accepted whatever the log answers: then every request is "unknown" to it."""

    async def step(self, payload: bytes | None) -> Any:
        """What is sent next; an answer with words in it is a refusal (RFC 7628, 3.2.2)."""
        if self._token_sent and payload:
            raise SaslAuthenticationFailed("the token is refused")
        return await super().step(payload)


aiokafka.client.create_conn = create_conn
conn.OAuthAuthenticator = Token


def unavailable(brokers: str, doing: str, error: BaseException) -> LogUnavailable:
    """The error for a log that does not answer or refuses, in one line."""
    said = str(error) or type(error).__name__
    return _refused(brokers, error) or LogUnavailable(
        f"the log at {brokers} did not {doing}: {said} (`esper doctor` looks closer)"
    )


def no_log(brokers: str, error: BaseException) -> LogUnavailable:
    """The same where nothing is asked but whether there is a log."""
    said = str(error) or type(error).__name__
    return _refused(brokers, error) or LogUnavailable(
        f"no log answers at {brokers}: {said}; start one or correct ESPER_BROKERS"
    )


def _refused(brokers: str, error: BaseException) -> LogUnavailable | None:
    why = _why(brokers, error)
    return LogUnavailable(f"the log at {brokers} does not let us in: {why}") if why else None


def _why(brokers: str, error: BaseException) -> str:
    addresses = [address.strip() for address in brokers.split(",")]
    asked = [address for address in addresses if address in _LAST]
    unable = isinstance(error, KafkaConnectionError) and "Unable to bootstrap" in str(error)
    if unable and not asked:
        return f"it hangs up on what is no login ({_way()}): does it ask for SASL?"  # it took the connection
    # A broker names others than those that are asked first, and with TLS each shows a certificate of its own.
    since = time.monotonic() - RECENT_S
    seen = [_LAST[address][1] for address in (asked if unable or asked else _LAST) if _LAST[address][0] >= since]
    return next(filter(None, map(_said, seen)), "")


def _said(error: Exception) -> str:  # noqa: PLR0911 - one answer for each kind
    """What to do about `error`; empty where it has nothing to do with the entrance."""
    if isinstance(error, ssl.SSLCertVerificationError):
        known = _CERTIFICATE.get(error.verify_code)
        return known or f"its certificate is not believed: {error.verify_message}"
    if isinstance(error, UnsupportedSaslMechanismError | IllegalSaslStateError):
        return f"it offers another login ({_way()}): correct ESPER_SASL_MECHANISM"
    if isinstance(error, AuthenticationFailedError | SaslAuthenticationFailed):
        return _wrong_login()
    if isinstance(error, EsperError):
        return str(error)
    if ours := _own_certificate(error):
        return ours
    tls = Settings.load().security_protocol.endswith("SSL")
    if isinstance(error, ssl.SSLError) or (tls and isinstance(error, ConnectionResetError)):
        return f"it speaks no TLS, or none that fits ({_way()}): correct ESPER_SECURITY_PROTOCOL"
    if isinstance(error, KafkaConnectionError) and _CLOSED in str(error):
        return f"it hangs up at once ({_way()}): correct ESPER_SECURITY_PROTOCOL, or show it an ESPER_SSL_CERTFILE"
    return ""


def _own_certificate(error: Exception) -> str:
    """What is wrong with our own certificate, or that we have none, where a log with TLS does not take us."""
    settings = Settings.load()
    told = [each for each in (error, error.__cause__) if isinstance(each, ssl.SSLError | ConnectionResetError)]
    if not settings.security_protocol.endswith("SSL") or not (told or _CLOSED in str(error)):
        return ""
    alert = any("ALERT" in str(each) and "CERTIFICATE" in str(each) for each in told)
    file, why = settings.ssl_certfile, _OF_OURS.get(time_of_own_certificate(settings), "")
    if file is not None and (why or alert):
        return f"the certificate that we show it, {file}, {why or _NOT_TAKEN}"
    return "it asks for a certificate of ours: set ESPER_SSL_CERTFILE and ESPER_SSL_KEYFILE" if alert else ""


def _wrong_login() -> str:
    if Settings.load().sasl_token_provider is not None:
        return "it refuses the token that ESPER_SASL_TOKEN_PROVIDER gives"
    return (
        f"user or password is wrong ({_way()}): correct ESPER_SASL_USERNAME and ESPER_SASL_PASSWORD, or what is in "
        "ESPER_SASL_PASSWORD_FILE"
    )


def _way() -> str:
    """How this process tries to get in, without anything secret."""
    settings = Settings.load()
    if not settings.security_protocol.startswith("SASL"):
        return settings.security_protocol
    user = "" if settings.sasl_username is None else f", user {settings.sasl_username!r}"
    return f"{settings.security_protocol}, {settings.sasl_mechanism}{user}"
