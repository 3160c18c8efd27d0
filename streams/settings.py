"""What a person or a deployment may set, from the environment: the data folder, the log and its ways in, the keys."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from contracts.topics import PARTITIONS
from esper.errors import InvalidInput
from esper.leyline import names

MAX_PARTITIONS: Final = 200
"""Of one topic: ten topics of them are what the embedded log takes, and more than any cluster of Esper's needs."""
MAX_PREFIX: Final = 200
"""Characters; a topic's name has at most 249."""
MIN_TOKEN: Final = 16
"""Characters of what lets somebody act through the page: nobody tries as many."""
LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost"})


class Settings(BaseModel):
    """The settings of one process. Every field is the environment variable of its name with `ESPER_` before it.

    `brokers` is a comma-separated list of HOST:PORT; unset means the embedded log of the data folder. Keys are hex
    text of 32 bytes or more. `key` signs, `key_previous` is still accepted during a rotation, and `keys_retired`
    (`HEX@UNIX_SECONDS`, comma-separated) verify only what was recorded before they were retired. These two may be set
    to nothing, as compose sets them while no key is rotated.

    What begins with `security_`, `sasl_` and `ssl_` is named as Kafka's clients name it and says how the log at
    `brokers` is entered (`docs/kafka.md`); the embedded log asks for none of it. `sasl_token_provider` is
    `MODULE:FUNCTION`, which gives a token for OAUTHBEARER. `topic_prefix` stands before the names of topics and groups
    there, and `partitions` is how many a topic gets when it is made; afterwards the log says how many it has.
    `objects_url` is where checkpoints, kernels and policies are kept for all machines; the data folder then has copies
    of what it used, of `objects_cache_gb` together. `update_freshness_s` is how old weights may be when their promotion
    is recorded, for deciders to load them; 0 is any age.

    What begins with `alert_` says whom alerts reach (`docs/alerts.md`); nobody is reached by default. `alert_smtp_url`
    is smtp://[USER:PASSWORD@]HOST[:PORT], or smtps:// for TLS from the first byte. `alert_window_scale` multiplies
    every time that an alert's rule waits for: a drill makes them shorter. `serve_token` is what lets somebody act
    through `esper serve`; each start makes one of its own by default.

    Read by hand: pydantic-settings costs every process that starts a tenth of a second, for these few variables.
    """

    model_config = ConfigDict(frozen=True)

    data: Path = Path("esper-data")
    brokers: str | None = Field(default=None, min_length=1)
    key: SecretStr | None = None
    key_previous: SecretStr | None = None
    keys_retired: SecretStr | None = None
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    sasl_token_provider: str | None = None
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_key_password: SecretStr | None = None
    objects_url: str | None = Field(default=None, min_length=1)
    objects_cache_gb: float = Field(default=20.0, gt=0)
    alert_slack_url: SecretStr | None = None
    alert_webhook_url: SecretStr | None = None
    alert_pagerduty_key: SecretStr | None = None
    alert_pagerduty_url: str = "https://events.pagerduty.com/v2/enqueue"
    alert_smtp_url: SecretStr | None = None
    alert_email_to: str | None = None
    alert_email_from: str | None = None
    alert_window_scale: float = Field(default=1.0, gt=0, le=10)
    serve_token: SecretStr | None = None
    update_freshness_s: float = Field(default=0.0, ge=0)
    topic_prefix: str = ""
    partitions: int = Field(default=PARTITIONS, ge=1, le=MAX_PARTITIONS)

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """The settings of this process; `overrides` (those that are not None) win over the environment.

        Raises InvalidInput that names the variable.
        """
        variables = {name: f"ESPER_{name.upper()}" for name in cls.model_fields}
        found: dict[str, Any] = {name: os.environ[each] for name, each in variables.items() if each in os.environ}
        try:
            return cls(**found | {name: value for name, value in overrides.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            told = str(first["msg"]).removeprefix("Value error, ")
            at = f"ESPER_{str(first['loc'][0]).upper()}: " if first["loc"] else ""
            raise InvalidInput(f"{at}{told}") from None

    @field_validator("data")
    @classmethod
    def _in_full(cls, value: Path) -> Path:
        return data_folder(value)

    @field_validator("brokers")
    @classmethod
    def _addresses(cls, value: str | None) -> str | None:
        for address in (value or "").split(",") if value else ():
            host, _, port = address.strip().rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"{names.shown(address.strip())} is no HOST:PORT with a port of 1 to 65535")
        return value

    @field_validator("key_previous", "keys_retired")
    @classmethod
    def _none_yet(cls, value: SecretStr | None) -> SecretStr | None:
        return value or None

    @field_validator("serve_token")
    @classmethod
    def _not_guessed(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value) < MIN_TOKEN:
            raise ValueError(f"is too short: take {MIN_TOKEN} characters or more")
        return value

    @field_validator("topic_prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if not re.fullmatch(rf"[A-Za-z0-9._-]{{0,{MAX_PREFIX}}}", value):
            allowed = f"letters, digits, '.', '_' and '-', at most {MAX_PREFIX}"
            raise ValueError(f"{names.shown(value)} cannot begin a topic's name: {allowed}")
        return value

    @model_validator(mode="after")
    def _ways_in(self) -> Self:
        """What cannot be meant is said before anything is sent: a password on its way in the clear, or none at all."""
        sasl, tls = self.security_protocol.startswith("SASL"), self.security_protocol.endswith("SSL")
        told = [name for name in self.model_fields_set if getattr(self, name) is not None]
        for group, wanted, need in (("sasl_", sasl, "SASL_SSL"), ("ssl_", tls, "SSL or SASL_SSL")):
            if not wanted and (unused := sorted(name for name in told if name.startswith(group))):
                variable, protocol = f"ESPER_{unused[0].upper()}", self.security_protocol
                raise ValueError(f"{variable} is set and ESPER_SECURITY_PROTOCOL is {protocol}: set it to {need}")
        if not sasl:
            return self
        if self.sasl_mechanism == "OAUTHBEARER":
            if self.sasl_token_provider is None:
                raise ValueError("OAUTHBEARER needs ESPER_SASL_TOKEN_PROVIDER=MODULE:FUNCTION, which gives a token")
        elif self.sasl_username is None or (self.sasl_password is None) == (self.sasl_password_file is None):
            raise ValueError(
                f"{self.security_protocol} needs ESPER_SASL_USERNAME, and either ESPER_SASL_PASSWORD or "
                "ESPER_SASL_PASSWORD_FILE"
            )
        return self

    @model_validator(mode="after")
    def _mail(self) -> Self:
        """Half a channel is none: it is said at the start and not when the first alert fires."""
        if (self.alert_smtp_url is None) != (self.alert_email_to is None):
            raise ValueError("mail about alerts needs both ESPER_ALERT_SMTP_URL and ESPER_ALERT_EMAIL_TO")
        return self

    @classmethod
    def secrets(cls) -> frozenset[str]:
        """The variables that hold a secret, which a process that runs code of others must not have."""
        held = {name for name, field in cls.model_fields.items() if "SecretStr" in str(field.annotation)}
        return frozenset(f"ESPER_{name.upper()}" for name in held)

    @property
    def objects(self) -> Path:
        """The object store's folder."""
        return self.data / "objects"

    @property
    def run_folder(self) -> Path:
        """The folder of locks, endpoint files and sockets."""
        return self.data / "run"


def data_folder(path: Path) -> Path:
    """A data folder as a person names it: `~` is the home folder also where no shell made it that.

    Raises ValueError where there is no such home.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder for {names.shown(str(path))}: name the folder in full") from None


def is_loopback(brokers: str) -> bool:
    """Whether every address in `brokers` can be reached from this machine only."""
    return all(_host_is_loopback(address.strip()) for address in brokers.split(","))


def _host_is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]") or address
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK_NAMES
