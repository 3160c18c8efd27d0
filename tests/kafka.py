"""A real Apache Kafka for the tests: three brokers on loopback, entered by SASL and TLS, with rights for each user.

It is what `../shared/kafka` beside the checkout starts (`ESPER_TEST_KAFKA` names another place). Its machines' own
listener is plain and lets in whoever comes as a superuser; clients come to another one, by `SASL_SSL`, and may do
nothing but what they were given. Where there is no such program or no Java, the tests that need it are skipped.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

PROGRAM: Final = Path(os.environ.get("ESPER_TEST_KAFKA") or Path(__file__).parents[2] / "shared" / "kafka" / "kafka")
MISSING: Final = (
    "no Java" if shutil.which("java") is None else "" if PROGRAM.exists() else "no ../shared/kafka beside the checkout"
)
"""Why no Kafka can be started here; empty where it can."""
USER: Final = "app"
NODES: Final = 3
ADMIN_S: Final = 20.0
LESS_JAVA: Final = "-XX:TieredStopAtLevel=1 -XX:CICompilerCount=1"
"""A broker that lives for seconds is not worth the second compiler: a third of the processor time."""
SECURITY: Final = "org.apache.kafka.common.security"
SETTINGS: Final = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
    "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,OAUTHBEARER",
    "listener.name.client.scram-sha-256.sasl.jaas.config": f"{SECURITY}.scram.ScramLoginModule required;",
    "listener.name.client.oauthbearer.sasl.jaas.config": (
        f'{SECURITY}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
    ),
    "replica.lag.time.max.ms": "5000",
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "3",
    "log.cleaner.enable": "false",
}
RIGHTS: Final = (  # the least with which Esper works; docs/kafka.md has them
    (ResourceType.TOPIC, "esper.", "CREATE DESCRIBE_CONFIGS READ WRITE"),  # reading and writing let one describe
    (ResourceType.GROUP, "esper-", "READ"),
)


class Kafka:
    """A cluster in a folder; `password` is that of `USER`."""

    def __init__(self, folder: Path, password: str, *, nodes: int = NODES) -> None:
        self.folder = folder
        self._nodes = nodes
        self._password = password
        self.brokers = ""
        self._whole = False

    def start(self) -> None:
        """Start the brokers that do not run yet or were killed."""
        if self._whole:
            return
        pairs = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
        login = ("--tls", "--sasl", f"{USER}:{self._password}")
        self.brokers = self._do("start", "--nodes", str(self._nodes), *login, *pairs).strip().splitlines()[-1]
        self._whole = True

    def kill(self, node: int | None = None) -> None:
        """SIGKILL for a broker, or for all."""
        self._whole = False
        self._do("kill", *(() if node is None else ("--node", str(node))))

    def pause(self, node: int, seconds: float) -> None:
        """Stop a broker as a machine that hangs does, and let it go on."""
        pid = int((self.folder / f"node-{node}" / "pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    def restart(self, node: int) -> None:
        """Have a broker end in good order, and start it again."""
        self._whole = False
        self._do("stop", "--node", str(node))
        self.start()

    @property
    def inside(self) -> str:
        """The plain addresses, where anybody may do anything."""
        ports = json.loads((self.folder / "cluster.json").read_text())["insides"]
        return ",".join(f"127.0.0.1:{port}" for port in ports)

    @property
    def certificate(self) -> Path:
        """What the brokers' certificates are signed by."""
        return self.folder / "cert.pem"

    def admin(self) -> AdminClient:
        """Librdkafka's admin client, as a superuser."""
        return AdminClient({"bootstrap.servers": self.inside})

    def allow(self, prefix: str, user: str = USER, rights: Sequence[tuple[ResourceType, str, str]] = RIGHTS) -> None:
        """Give a user the rights on what begins with `prefix`."""
        bindings = [
            AclBinding(
                kind,
                prefix + name,
                ResourcePatternType.PREFIXED,
                f"User:{user}",
                "*",
                AclOperation[operation],
                AclPermissionType.ALLOW,
            )
            for kind, name, operations in rights
            for operation in operations.split()
        ]
        admin = self.admin()  # held: what it was asked ends with it
        for future in admin.create_acls(bindings).values():
            future.result(ADMIN_S)

    def add_scram(self, user: str, password: str) -> None:
        """A user who logs in by SCRAM-SHA-256."""
        how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        wanted = [UserScramCredentialUpsertion(user, how, password.encode())]
        admin = self.admin()
        for future in admin.alter_user_scram_credentials(wanted).values():
            future.result(ADMIN_S)

    def limit(self, user: str, **rates: int) -> None:
        """Set quotas of a user, such as `producer_byte_rate`; 0 takes one away."""
        kept = ",".join(f"{name}={rate}" for name, rate in rates.items() if rate)
        gone = ",".join(name for name, rate in rates.items() if not rate)
        changes = [
            word for verb, said in (("add", kept), ("delete", gone)) if said for word in (f"--{verb}-config", said)
        ]
        self._do("tool", "configs", "--alter", "--entity-type", "users", "--entity-name", user, *changes)

    def leader(self, topic: str, partition: int) -> int:
        """Which broker, counted from 1, leads a partition."""
        return int(self.admin().list_topics(topic, timeout=ADMIN_S).topics[topic].partitions[partition].leader)

    def _do(self, verb: str, *arguments: str) -> str:
        environment = {**os.environ, "JAVA_TOOL_OPTIONS": LESS_JAVA}
        done = subprocess.run(
            [str(PROGRAM), verb, str(self.folder), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def token(user: str, seconds: float = 600.0) -> str:
    """A token that says who one is and that nobody signed: Kafka takes such where it was told of no one who signs."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": user, "iat": now, "exp": now + int(seconds)})
    return ".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in parts) + "."
