"""Which keys sign and verify the log: from the environment, or the user's own for the embedded log (ruling 25)."""

from __future__ import annotations

import os
import secrets
import stat
import sys
import tempfile
from pathlib import Path
from shlex import quote
from typing import Final

import platformdirs
from pydantic import SecretStr

from esper.errors import InvalidInput
from esper.leyline.signing import MIN_KEY_BYTES, KeyRing
from streams.settings import Settings, is_loopback

KEY_FILE_NAME: Final = "signing-key"


def load_key_ring(settings: Settings, brokers: str | None = None) -> KeyRing:
    """The key ring of this installation for the log at `brokers` (by default the one that the settings name).

    With no key set, the embedded log (no `ESPER_BROKERS`, a loopback address) gets a key of the user's own, made once
    in the user's configuration directory and announced on stderr. Any other log is refused without a key.

    Raises InvalidInput for a missing key, one that is no hex text of 32 bytes, and a key file that others can read.
    """
    if settings.key is not None:
        accepted = [_decode("ESPER_KEY", settings.key)]
        if settings.key_previous is not None:
            accepted.append(_decode("ESPER_KEY_PREVIOUS", settings.key_previous))
        return KeyRing(tuple(accepted), _retired(settings))
    address = brokers or settings.brokers
    if settings.brokers is not None or (address is not None and not is_loopback(address)):
        raise InvalidInput(
            f"the log at {address} needs a signing key: set ESPER_KEY to the same 64 hex digits for every process "
            "(make them with `python -c 'import secrets; print(secrets.token_hex(32))'`)"
        )
    return KeyRing((_own_key(key_file()),), _retired(settings))


def known_key_ring(settings: Settings) -> KeyRing | None:
    """The key ring, where there is one: none is made, for who only looks at what was signed."""
    if settings.key is None and (settings.brokers is not None or not key_file().exists()):
        return None
    return load_key_ring(settings)


def key_file() -> Path:
    """Where the embedded log's key lies: never in a data folder, which people copy and share."""
    return Path(platformdirs.user_config_dir("esper", appauthor=False)) / KEY_FILE_NAME


def _own_key(path: Path) -> bytes:
    try:
        made = not path.exists() and _make(path)
    except OSError as error:
        raise InvalidInput(
            f"the signing key {path} cannot be made: {error.strerror}; set XDG_CONFIG_HOME to a folder that can be "
            "written to, or ESPER_KEY to 64 hex digits"
        ) from None
    if made:
        sys.stderr.write(f"esper: made a signing key for the embedded log: {path} (readable by you alone)\n")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        way = f"run `chmod 600 {quote(str(path))}`"
        raise InvalidInput(f"the signing key {path} can be read by others (mode {mode:04o}): {way}")
    try:
        return _decode(str(path), SecretStr(path.read_text(encoding="ascii", errors="replace")))
    except OSError as error:
        raise InvalidInput(f"the signing key {path} cannot be read: {error.strerror}; set ESPER_KEY instead") from None


def _make(path: Path) -> bool:
    """Write a new key whole or not at all; False where another process was first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(MIN_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # fails where it exists, which a rename would not
    except FileExistsError:
        return False
    finally:
        Path(temporary).unlink()
    return True


def _retired(settings: Settings) -> dict[bytes, int]:
    if settings.keys_retired is None:
        return {}
    retired: dict[bytes, int] = {}
    for entry in settings.keys_retired.get_secret_value().split(","):
        secret, _, seconds = entry.strip().partition("@")
        if not seconds.isdigit():
            raise InvalidInput("ESPER_KEYS_RETIRED: every entry is HEX@UNIX_SECONDS, comma-separated")
        retired[_decode("ESPER_KEYS_RETIRED", SecretStr(secret))] = int(seconds) * 1_000_000_000
    return retired


def _decode(source: str, secret: SecretStr) -> bytes:
    """The key's bytes. The message of an error never holds any of them."""
    try:
        key = bytes.fromhex(secret.get_secret_value().strip())
    except ValueError:
        key = b""
    if len(key) < MIN_KEY_BYTES:
        raise InvalidInput(f"{source} is no signing key: it must be hex text of {MIN_KEY_BYTES} bytes or more")
    return key
