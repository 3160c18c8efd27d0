"""The page over a copy of the small history, asked in process: by HTTP and by sockets."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest

from esper.cli.app import dispatch
from projections import questions
from streams.metrics import Metrics

TOKEN = "the-token-of-this-page"
HERE = "127.0.0.1:8000"


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Page:
    """A page that answers, and a client of it that says who it is."""

    def __init__(self, site, client, clock):
        self.site, self.client, self.clock = site, client, clock

    async def get(self, path, **headers):
        return await self.client.get(path, headers=headers)

    async def session(self, token=TOKEN):
        return await self.client.post("/api/session", headers={"Authorization": f"Bearer {token}"})

    async def act(self, path, body, key, **headers):
        """Post it with the key of a session."""
        return await self.client.post(path, json=body, headers={"Authorization": f"Bearer {key}", **headers})

    async def key(self):
        return (await self.session()).json()["session"]

    @asynccontextmanager
    async def socket(self, **headers):
        """A socket's two ends: what the page sends, as it is sent, and where the client's messages go."""
        sent, said = asyncio.Queue(), asyncio.Queue()
        head = {"host": HERE, **headers}
        scope = {
            "type": "websocket",
            "path": "/ws/stream",
            "headers": [(name.encode(), value.encode()) for name, value in head.items()],
            "subprotocols": ["esper"],
            "query_string": b"",
        }
        said.put_nowait({"type": "websocket.connect"})
        gate = asyncio.Event()
        gate.set()

        async def send(message):
            await gate.wait()
            await sent.put(message)

        task = asyncio.create_task(self.site.app(scope, said.get, send))
        try:
            yield sent, said, gate
        finally:
            gate.set()
            said.put_nowait({"type": "websocket.disconnect", "code": 1000})
            await asyncio.wait_for(task, 10)


async def message(sent):
    """The next message of the page's, as the client reads it."""
    found = await asyncio.wait_for(sent.get(), 30)
    assert found["type"] == "websocket.send"
    return json.loads(found["text"])


@asynccontextmanager
async def serving(folder, host="127.0.0.1"):
    pytest.importorskip("starlette", reason="the extra `serve` is not installed")
    from esper.cli.serve.site import Site

    clock = Clock()
    site = Site(folder, TOKEN, host, Metrics(), clock)
    async with (
        site.app.router.lifespan_context(site.app),
        httpx.AsyncClient(transport=httpx.ASGITransport(site.app), base_url=f"http://{HERE}") as client,
    ):
        yield Page(site, client, clock)


@contextmanager
def running(monkeypatch, *words):
    """The command in a thread of its own, until what is inside is over; its exit code comes last."""
    uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    pytest.importorskip("wsproto", reason="the extra `serve` is not installed")
    made, codes = [], []
    real = uvicorn.Server.run
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: (made.append(self), real(self, sockets)))
    thread = threading.Thread(target=lambda: codes.append(dispatch(["serve", *words])), daemon=True)
    thread.start()
    while not (made and made[0].started):
        assert thread.is_alive()
        thread.join(0.01)
    try:
        yield codes
    finally:
        made[0].should_exit = True
        thread.join(30)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A data folder with the small history; whoever changes it copies it."""
    to = tmp_path_factory.mktemp("serve") / "data"
    shutil.copytree(questions.folder(), to)
    return to


@pytest.fixture
def bare(tmp_path):
    """A page to be entered, of a folder where nothing was run yet."""
    return lambda host="127.0.0.1": serving(tmp_path, host)


@pytest.fixture
def page(folder):
    """A page to be entered, on another folder or address where one is given."""

    def make(of=None, host="127.0.0.1"):
        return serving(of or folder, host)

    return make
