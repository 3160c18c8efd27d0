"""What a client of the log says to be let in: the one place that knows, for every address, the secret that opens it.

The embedded log of a data folder has a secret there (`streams.broker.secret`). A process that learns where such a log
listens says so with `know`; from then on each of its clients gets the `credentials`. The log at `ESPER_BROKERS` is
entered as the settings say (`streams.security`), and is told no secret of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from streams.broker.secret import USER, known_secret
from streams.settings import Settings

_FOLDERS: Final[dict[str, Path]] = {}
"""Of each embedded log that this process works with, by its address: the folder with its secret."""


def know(address: str, data_dir: Path) -> None:
    """The embedded log of `data_dir` listens at `address`."""
    _FOLDERS[address] = data_dir / "log"


def know_own(address: str, settings: Settings) -> None:
    """The log at `address` is that of the settings' data folder, unless they name an outside one."""
    if settings.brokers is None:
        know(address, settings.data)


def recognise(address: str, data_dir: Path) -> None:
    """The log at `address` is that of `data_dir` where that one says that it listens there."""
    from streams.broker.launch import announced_address  # noqa: PLC0415 - which says so here, too

    if announced_address(data_dir) == address:
        know(address, data_dir)


def known() -> dict[str, Path]:
    """All that this process knows, for another one to `learn`."""
    return dict(_FOLDERS)


def learn(folders: Mapping[str, Path]) -> None:
    """Take over what another process knows."""
    _FOLDERS.update(folders)


def credentials(brokers: str) -> dict[str, Any]:
    """The settings of an aiokafka client with which the log at `brokers` lets it in.

    An address that is neither an embedded log's nor, where that is set, `ESPER_BROKERS`, is told nothing. Raises
    InvalidInput where the settings name files that cannot be used.
    """
    folder = _FOLDERS.get(brokers)
    if folder is None:
        settings = Settings.load()
        if settings.security_protocol == "PLAINTEXT" or settings.brokers not in (None, brokers):
            return {}
        from streams.security import client_settings  # noqa: PLC0415 - brings a Kafka client, and not all need one

        return client_settings(settings)
    secret = known_secret(folder)
    if secret is None:
        return {}
    return {
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": USER,
        "sasl_plain_password": secret,
    }


def prefix_of(brokers: str) -> str:
    """What stands before the names of our topics and groups on the log at `brokers`; nothing on an embedded one."""
    return "" if brokers in _FOLDERS else Settings.load().topic_prefix


def _worth_saying(record: logging.LogRecord) -> bool:
    """Every connection would warn that the secret is sent in the clear, which on loopback nobody else sees."""
    return not str(record.msg).startswith(("Sending username and password in the clear", "Authenticated as"))


logging.getLogger("aiokafka.conn").addFilter(_worth_saying)
