"""How the log at `ESPER_BROKERS` is entered: SASL and TLS, from the settings to what an aiokafka client takes.

Whatever is wrong with a file is said before anything is sent, and no message holds a password, a token or a key.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from pydantic import SecretStr

from esper.errors import InvalidInput, LogUnavailable
from esper.leyline import names
from streams.settings import Settings


def client_settings(settings: Settings) -> dict[str, Any]:
    """The settings of an aiokafka client for an outside log: none where it is a plain one.

    Raises InvalidInput for a file that is missing, unreadable, readable by others or of another kind, and for a token
    provider that cannot be found.
    """
    protocol = settings.security_protocol
    found: dict[str, Any] = {} if protocol == "PLAINTEXT" else {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        password = settings.ssl_key_password
        found["ssl_context"] = _context(settings.ssl_cafile, settings.ssl_certfile, settings.ssl_keyfile, password)
    if not protocol.startswith("SASL"):
        return found
    found["sasl_mechanism"] = settings.sasl_mechanism
    if settings.sasl_mechanism == "OAUTHBEARER":
        return found | {"sasl_oauth_token_provider": TokenProvider(_function(settings.sasl_token_provider or ""))}
    return found | {"sasl_plain_username": settings.sasl_username, "sasl_plain_password": _password(settings)}


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Asks a function for a token whenever a connection is made; in a thread, because it may ask a server for one."""

    def __init__(self, function: Callable[[], str]) -> None:
        self._function = function

    async def token(self) -> str:
        """A token that is still good; raises LogUnavailable, without what was said, where the function raises."""
        try:
            return await asyncio.to_thread(self._function)
        except Exception as error:  # noqa: BLE001 - it is somebody's function
            kind = type(error).__name__  # its message may hold what it asked for a token with
            raise LogUnavailable(f"ESPER_SASL_TOKEN_PROVIDER gives no token: it raised {kind}") from None


def _function(named: str) -> Callable[[], str]:
    module, _, name = named.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # noqa: BLE001 - somebody's module may raise anything when it is imported
        raise InvalidInput(
            f"ESPER_SASL_TOKEN_PROVIDER: {names.shown(named)} is no MODULE:FUNCTION that can be imported "
            f"({type(error).__name__})"
        ) from None
    if not callable(found):
        raise InvalidInput(f"ESPER_SASL_TOKEN_PROVIDER: {names.shown(named)} is no function")
    return found  # type: ignore[no-any-return]


def _password(settings: Settings) -> str:
    if settings.sasl_password is not None:
        return settings.sasl_password.get_secret_value()
    path = settings.sasl_password_file
    assert path is not None  # the settings were checked
    _own("ESPER_SASL_PASSWORD_FILE", path)
    try:
        return path.read_text().strip()
    except (OSError, ValueError) as error:
        raise _unreadable("ESPER_SASL_PASSWORD_FILE", path, error) from None


@lru_cache(maxsize=8)
def _context(cafile: Path | None, certfile: Path | None, keyfile: Path | None, password: SecretStr | None) -> Any:
    """The TLS of a client that checks the server's certificate and its name; made once, since it reads some files."""
    try:
        context = ssl.create_default_context(cafile=None if cafile is None else str(cafile))
    except (OSError, ValueError) as error:
        raise _unreadable("ESPER_SSL_CAFILE", cafile, error) from None
    if certfile is None:
        return context
    key = keyfile or certfile
    _own("ESPER_SSL_KEYFILE" if keyfile else "ESPER_SSL_CERTFILE", key)
    try:
        # Without a password that is given, OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certfile, keyfile, password.get_secret_value() if password else lambda: b"")
    except (OSError, ValueError) as error:
        raise _unreadable("ESPER_SSL_CERTFILE, ESPER_SSL_KEYFILE or ESPER_SSL_KEY_PASSWORD", certfile, error) from None
    return context


def time_of_own_certificate(settings: Settings) -> int:
    """What OpenSSL says of the time of our own certificate (X509_V_ERR_…): 10 where it is over, 9 where it is to come.

    0 where there is nothing to say. The library tells no dates, so a server in memory verifies it, which trusts it.
    """
    file, key, password = settings.ssl_certfile, settings.ssl_keyfile, settings.ssl_key_password
    if file is None:
        return 0
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        for context in (server, client):
            context.load_cert_chain(file, key, password.get_secret_value() if password else lambda: b"")
        server.load_verify_locations(file)
    except (OSError, ValueError):
        return 0
    server.verify_mode, server.verify_flags = ssl.CERT_REQUIRED, server.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
    for side in sides * 4:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            return int(error.verify_code)
        except ssl.SSLError:
            break
    return 0


def _own(variable: str, path: Path) -> None:
    """Raises InvalidInput where a file with a secret is not there, or can be read by others."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise _unreadable(variable, path, error) from None
    if mode & 0o077:
        way = f"run `chmod 600 {quote(str(path))}`"
        raise InvalidInput(f"{variable}: {path} can be read by others (mode {mode:04o}): {way}")


def _unreadable(variable: str, path: Path | None, error: Exception) -> InvalidInput:
    said = getattr(error, "strerror", None) or getattr(error, "reason", None) or "it is of another kind"
    return InvalidInput(f"{variable}: {path} cannot be used: {said}")
