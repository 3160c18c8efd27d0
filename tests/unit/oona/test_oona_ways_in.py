"""How an outside log is entered, and what is said where it is not: one plain line, soon, without a secret."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka.abc import AbstractTokenProvider
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from esper.errors import InvalidInput, LogUnavailable
from esper.weatherlight.supervisor import Supervisor
from streams.access import credentials
from streams.consumer import enter
from streams.forge import child
from streams.settings import Settings

PASSWORD = "correct-horse-battery"
AT_ONCE_S = 5.0
ADDRESS = "log.example:9093"
LOGIN = {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_USERNAME": "app", "SASL_PASSWORD": PASSWORD}


@pytest.fixture(autouse=True)
def _nothing_else_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ESPER_{name.upper()}", raising=False)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets variables that begin with `ESPER_`."""

    def tell(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"ESPER_{name}", str(value))

    return tell


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SECURITY_PROTOCOL": "TLS"}, "ESPER_SECURITY_PROTOCOL: "),
        (
            {"SASL_USERNAME": "app", "SASL_PASSWORD": PASSWORD},
            "ESPER_SECURITY_PROTOCOL is PLAINTEXT: set it to SASL_SSL",
        ),
        ({"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "SSL_CAFILE": "/ca"}, "ESPER_SSL_CAFILE is set"),
        ({"SECURITY_PROTOCOL": "SASL_SSL", "SASL_PASSWORD": PASSWORD}, "needs ESPER_SASL_USERNAME"),
        ({**LOGIN, "SASL_PASSWORD_FILE": "/x"}, "either ESPER_SASL_PASSWORD or ESPER_SASL_PASSWORD_FILE"),
        ({"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "OAUTHBEARER"}, "needs ESPER_SASL_TOKEN_PROVIDER"),
        ({**LOGIN, "SASL_MECHANISM": PASSWORD}, "ESPER_SASL_MECHANISM: Input should be 'PLAIN'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_sent(told, variables, said):
    told(**variables)
    with pytest.raises(InvalidInput) as refused:
        Settings.load()

    assert said in str(refused.value)
    assert PASSWORD not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_password_comes_from_the_environment_or_from_a_file_of_ones_own(told, tmp_path):
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    file.chmod(0o600)
    told(BROKERS=ADDRESS, **{**LOGIN, "SASL_MECHANISM": "SCRAM-SHA-512"})
    from_environment = credentials(ADDRESS)
    assert PASSWORD not in repr(Settings.load())
    told(SASL_PASSWORD_FILE=file)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ESPER_SASL_PASSWORD")
        from_file = credentials(ADDRESS)
        file.chmod(0o644)
        with pytest.raises(
            InvalidInput, match=r"ESPER_SASL_PASSWORD_FILE: .* can be read by others \(mode 0644\): run"
        ):
            credentials(ADDRESS)

    assert from_file == from_environment
    assert from_file["sasl_plain_password"] == PASSWORD
    assert from_file["sasl_mechanism"] == "SCRAM-SHA-512"
    assert from_file["ssl_context"].check_hostname


def test_another_address_than_the_named_one_is_told_nothing(told):
    told(BROKERS=ADDRESS, **LOGIN)

    assert credentials(ADDRESS)["sasl_plain_username"] == "app"
    assert credentials("elsewhere.example:9093") == {}


def test_a_token_is_asked_for_at_every_login(told):
    told(SECURITY_PROTOCOL="SASL_SSL", SASL_MECHANISM="OAUTHBEARER", SASL_TOKEN_PROVIDER="platform:node")
    provider = credentials(ADDRESS)["sasl_oauth_token_provider"]

    assert isinstance(provider, AbstractTokenProvider)
    assert asyncio.run(provider.token()) == socket.gethostname()


@pytest.mark.parametrize("named", ["platform:nothing", "no_such_module:f", "platform", "", "platform:__doc__", "..:x"])
def test_a_token_provider_that_is_none_is_named(told, named):
    told(SECURITY_PROTOCOL="SASL_SSL", SASL_MECHANISM="OAUTHBEARER", SASL_TOKEN_PROVIDER=named)
    with pytest.raises(InvalidInput, match=r"^ESPER_SASL_TOKEN_PROVIDER: "):
        credentials(ADDRESS)


@pytest.mark.parametrize(
    ("variable", "content"),
    [("SSL_CAFILE", None), ("SSL_CAFILE", "no PEM"), ("SSL_CERTFILE", None), ("SSL_CERTFILE", "no PEM")],
)
def test_a_file_that_is_none_is_named(told, tmp_path, variable, content):
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_text(content)
        file.chmod(0o600)
    told(SECURITY_PROTOCOL="SSL", **{variable: file})
    with pytest.raises(InvalidInput, match=rf"^ESPER_{variable}.*{file} cannot be used: ") as refused:
        credentials(ADDRESS)

    assert "\n" not in str(refused.value)


def test_a_process_that_runs_code_of_others_has_no_secret(told, tmp_path):
    secrets = {
        *("KEY", "KEY_PREVIOUS", "KEYS_RETIRED", "SASL_PASSWORD", "SSL_KEY_PASSWORD"),
        *("ALERT_SLACK_URL", "ALERT_WEBHOOK_URL", "ALERT_PAGERDUTY_KEY", "ALERT_SMTP_URL", "SERVE_TOKEN"),
    }
    told(**dict.fromkeys(secrets, PASSWORD), DATA=tmp_path)
    environment = child._environment(tmp_path)

    assert Settings.secrets() == {f"ESPER_{name}" for name in secrets}
    assert PASSWORD not in environment.values()
    assert environment["ESPER_DATA"] == str(tmp_path)


def test_a_folder_in_use_under_another_prefix_is_refused(told, tmp_path):
    """Its processes would wait for what is written beside them."""
    told(TOPIC_PREFIX="team-a.")
    request = {"brokers": ADDRESS, "prefix": "team-b."}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        supervisor = Supervisor(tmp_path, ADDRESS, theirs)
        with pytest.raises(InvalidInput, match=r"is in use with 'team-a\.' before .*, not with 'team-b\.'"):
            supervisor._check(request)

        supervisor._check(request | {"prefix": "team-a."})


# -------------------------------------------------------------------------------------------------------- at the door


def certificate(folder: Path, name: str = "127.0.0.1", days: int = 30) -> tuple[Path, Path]:
    """A self-signed certificate of an address, good until so many days from now, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    ends = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    whose = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(whose, whose, key.public_key(), x509.random_serial_number())
        .not_valid_before(ends - dt.timedelta(days=60))
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Listens with TLS, or without, and hangs up on whoever comes in."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(context: ssl.SSLContext | None) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) if context else connection as inside:
                    inside.recv(1)
            except OSError:
                pass

    def open_it(*, tls: bool = True, asks: Path | None = None, **settings: object) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if context is not None:
            context.load_cert_chain(*certificate(tmp_path, **settings))
        if context is not None and asks is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(asks)
        threading.Thread(target=serve, args=(context,), daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield open_it
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize(
    ("at_the_door", "trusted", "said"),
    [
        ({}, False, "its certificate is signed by nobody who is trusted here: set ESPER_SSL_CAFILE"),
        ({"days": -1}, True, "its certificate has expired: whoever runs the log has to renew it"),
        ({"days": 90}, True, "its certificate is not valid yet"),
        ({"name": "10.0.0.1"}, True, "its certificate is of another name: set ESPER_BROKERS"),
        ({"tls": False}, False, "it speaks no TLS, or none that fits"),
        ({}, True, "it hangs up at once"),
    ],
)
def test_a_log_that_lets_nobody_in_is_one_plain_line_at_once(told, door, tmp_path, at_the_door, trusted, said):
    address = door(**at_the_door)
    told(BROKERS=address, **LOGIN, **({"SSL_CAFILE": tmp_path / "cert.pem"} if trusted else {}))
    began = time.monotonic()
    with pytest.raises(LogUnavailable) as refused:
        enter(address)

    assert time.monotonic() - began < AT_ONCE_S
    assert str(refused.value).startswith(f"the log at {address} does not let us in: {said}")
    assert "\n" not in str(refused.value)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (-1, "the certificate that we show it, {file}, has expired: have it renewed"),
        (90, "the certificate that we show it, {file}, is not valid yet"),
        (None, "it "),  # asks for one of ours; or hangs up, where its word for it was lost with the connection
        (30, "it hangs up at once"),  # it was let in
    ],
)
def test_a_certificate_of_our_own_that_is_not_taken_is_named_at_once(told, door, tmp_path, days, said):
    (ours := tmp_path / "ours").mkdir()
    file, key = certificate(ours, days=30 if days is None else days)
    key.chmod(0o600)
    address = door(asks=file)
    shown = {} if days is None else {"SSL_CERTFILE": file, "SSL_KEYFILE": key}
    told(BROKERS=address, SECURITY_PROTOCOL="SSL", SSL_CAFILE=tmp_path / "cert.pem", **shown)
    began = time.monotonic()
    with pytest.raises(LogUnavailable) as refused:
        enter(address)

    assert time.monotonic() - began < AT_ONCE_S
    assert str(refused.value).startswith(f"the log at {address} does not let us in: {said.format(file=file)}")
    assert days is not None or "ESPER_SSL_CERTFILE" in str(refused.value)
    assert "\n" not in str(refused.value)
