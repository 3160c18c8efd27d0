"""`esper serve` as a person starts it: a real server, a real socket, and the token nowhere it must not be."""

from __future__ import annotations

import json
import re
import socket
import sys

import httpx
import pytest

from esper.cli.app import dispatch
from tests.unit.cli.serve.conftest import TOKEN, running

wsproto = pytest.importorskip("wsproto", reason="the extra `serve` is not installed")


def first_message(port: int, **headers: str) -> dict:
    """What a client of the socket hears first, by wsproto's other half; where it is let in, the overview."""
    with socket.create_connection(("127.0.0.1", port), 30) as wire:
        client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        wire.sendall(
            client.send(wsproto.events.Request(host=f"127.0.0.1:{port}", target="/ws/stream", extra_headers=extra))
        )
        text = ""
        while True:
            client.receive_data(wire.recv(65536) or None)
            for event in client.events():
                if isinstance(event, wsproto.events.TextMessage):
                    text += event.data
                    if event.message_finished:
                        wire.sendall(client.send(wsproto.events.CloseConnection(code=1000)))
                        return json.loads(text)
                elif not isinstance(event, wsproto.events.AcceptConnection):
                    return {"refused": type(event).__name__}


def test_it_prints_its_address_and_answers_there(folder, monkeypatch, capfd):
    with running(monkeypatch, "--data-dir", str(folder)) as codes:
        said = capfd.readouterr().out
        port, token = re.search(r"http://127\.0\.0\.1:(\d+)/#token=(\S+)", said).groups()
        here = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=here) as client:
            page = client.get("/")
            begun = client.post("/api/session", headers={"Authorization": f"Bearer {token}"})
            metrics = client.get("/metrics").text
        heard = first_message(int(port))
        foreign = first_message(int(port), Origin="http://evil.example")
    out, err = capfd.readouterr()

    assert (codes, page.status_code, begun.status_code) == ([0], 200, 200)
    assert "mission control" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "server" not in page.headers
    assert heard["number"] == 1
    assert len(heard["state"]["runs"]) == 5
    assert foreign == {"refused": "RejectConnection"}
    assert "esper_process_cpu_seconds_total" in metrics or "esper_serve" in metrics
    for kept in (out, err, page.text, metrics, json.dumps(heard)):
        assert token not in kept


def test_a_token_of_ones_own_is_printed_to_a_person_and_never_as_json(folder, monkeypatch, capfd):
    monkeypatch.setenv("ESPER_SERVE_TOKEN", TOKEN)
    with running(monkeypatch, "--data-dir", str(folder), "--json"):
        said = json.loads(capfd.readouterr().out)
        answer = httpx.post(f"{said['url']}api/session", headers={"Authorization": f"Bearer {TOKEN}"})

    assert TOKEN not in json.dumps(said)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("words", "variable", "told"),
    [
        (["--host", "no.such.host.invalid"], None, "of no.such.host.invalid cannot be taken"),
        ([], "short", "ESPER_SERVE_TOKEN: is too short: take 16 characters or more"),
    ],
)
def test_what_cannot_be_is_one_line(folder, monkeypatch, capsys, words, variable, told):
    if variable is not None:
        monkeypatch.setenv("ESPER_SERVE_TOKEN", variable)

    assert dispatch(["serve", "--data-dir", str(folder), *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert variable is None or f"{variable!r}" not in said


def test_a_port_that_is_taken_is_named(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = dispatch(["serve", "--port", str(port), "--data-dir", str(folder)])

    assert code == 2
    assert f"port {port} of 127.0.0.1 cannot be taken" in capsys.readouterr().err


def test_without_its_packages_it_says_what_to_install(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)

    assert dispatch(["serve", "--data-dir", str(folder)]) == 2
    assert "pip install 'esper-lite[serve]'" in capsys.readouterr().err


def test_an_address_that_others_reach_is_warned_of(folder, monkeypatch, capfd):
    with running(monkeypatch, "--host", "0.0.0.0", "--json", "--data-dir", str(folder)):
        out, err = capfd.readouterr()

    assert json.loads(out)["host"] == "0.0.0.0"
    assert "bound to 0.0.0.0: others on the network reach it" in err
