"""What a person or a deployment may set, from the environment: `ESPER_DATA`, `ESPER_BROKERS` and the signing keys."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from esper.errors import InvalidInput

LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost"})


class Settings(BaseSettings):
    """The settings of one process. Every field is the environment variable of its name with `ESPER_` before it.

    `brokers` is a comma-separated list of HOST:PORT; unset means the embedded log of the data folder. Keys are hex
    text of 32 bytes or more. `key` signs, `key_previous` is still accepted during a rotation, and `keys_retired`
    (`HEX@UNIX_SECONDS`, comma-separated) verify only what was recorded before they were retired.
    """

    model_config = SettingsConfigDict(env_prefix="ESPER_", frozen=True, extra="ignore")

    data: Path = Path("esper-data")
    brokers: str | None = Field(default=None, min_length=1)
    key: SecretStr | None = None
    key_previous: SecretStr | None = None
    keys_retired: SecretStr | None = None

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """The settings of this process; `overrides` (those that are not None) win over the environment.

        Raises InvalidInput that names the variable.
        """
        try:
            return cls(**{name: value for name, value in overrides.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidInput(f"ESPER_{str(first['loc'][0]).upper()}: {first['msg']}") from None

    @property
    def objects(self) -> Path:
        """The object store's folder."""
        return self.data / "objects"

    @property
    def run_folder(self) -> Path:
        """The folder of locks, endpoint files and sockets."""
        return self.data / "run"


def is_loopback(brokers: str) -> bool:
    """Whether every address in `brokers` can be reached from this machine only."""
    return all(_host_is_loopback(address.strip()) for address in brokers.split(","))


def _host_is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]") or address
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK_NAMES
