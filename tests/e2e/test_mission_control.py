"""What a person does on the page is an event on the log: a run is told, and an alert is known to somebody."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import torch
from torch import nn

import esper
from esper.cli.history import history_of
from esper.leyline.envelope import new_event
from esper.weatherlight import client
from projections.run_queries import rows
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.producer import publish_once
from streams.settings import Settings

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from contracts.leyline.v1.event_pb2 import AlertFired  # noqa: E402 - as above
from contracts.topics import LOCAL  # noqa: E402
from esper.cli.serve.site import Site  # noqa: E402

TOKEN = "the-token-of-this-page"


class Training(threading.Thread):
    """A run on the embedded log that takes one endless epoch, until it is stopped."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.x, self.y = torch.randn(32, 4), torch.randint(2, (32,))
        self.growth = esper.grow(
            self.model,
            torch.optim.SGD(self.model.parameters(), lr=0.01),
            probe=lambda model: nn.functional.cross_entropy(model(self.x), self.y, reduction="none"),
            epochs=1,
            data_dir=folder,
            run_id="told",
            policy="none",
        )

    def run(self):
        with self.growth as run:
            for _ in run.epochs():
                for _ in run.batches(range(1_000_000)):
                    run.step(lambda: nn.functional.cross_entropy(self.model(self.x), self.y))
                    time.sleep(0.005)


@pytest.fixture
def training(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    training = Training(tmp_path / "data")
    training.start()
    while not (tmp_path / "data" / "archive" / "manifest.json").exists():
        assert training.is_alive()
        time.sleep(0.05)
    yield training
    training.growth.stop()
    training.join(60)


def fire(data_dir):
    """Have an alert of the run on the log, as Nissa would."""
    body = AlertFired(rule="training_latency_high", description="hooks are slow", value=0.03, threshold=0.018)
    event = new_event(body, event_id=b"\x17" * 16, run_id="told", producer="nissa", recorded_at_ns=time.time_ns())
    ring = load_key_ring(Settings.load(data=data_dir))
    asyncio.run(publish_once(client.status(data_dir).brokers, ring, [event]))


async def act(data_dir):
    """Tell the run, acknowledge its alert, and what the page shows afterwards."""
    site = Site(data_dir, TOKEN, "127.0.0.1", Metrics(), time.monotonic)
    transport = httpx.ASGITransport(site.app)
    async with (
        site.app.router.lifespan_context(site.app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=120) as page,
    ):

        async def status(done):
            while not done(found := (await page.get("/api/status")).json()):  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.1)  # each look is a question to the page
            return found

        begun = await page.post("/api/session", headers={"Authorization": f"Bearer {TOKEN}"})
        page.headers["Authorization"] = f"Bearer {begun.json()['session']}"
        await status(lambda told: told["alerts"] and told["runs"])
        paused = await page.post("/api/runs/told/tell", json={"words": "pause"})
        known = await page.post(f"/api/alerts/{'17' * 16}/ack", json={"by": "ada", "note": "I look"})
        return paused, known, await status(lambda told: told["alerts"][0]["said_by"] and told["runs"][0]["paused"])


@pytest.mark.requirement("R-NIS-18")
def test_what_a_person_does_on_the_page_is_on_the_log(training, tmp_path):
    data_dir = tmp_path / "data"
    fire(data_dir)
    paused, known, shown = asyncio.run(act(data_dir))
    with history_of(data_dir) as history:
        (told,) = rows(history, "from log.adaptation_command where run_id = 'told'")
        (said,) = rows(history, "from log.alert_acknowledged")

    assert (paused.status_code, paused.json()["outcome"], paused.json()["told"]) == (200, "applied", "pause")
    assert (known.status_code, known.json()["by"]) == (200, "ada")
    assert (shown["alerts"][0]["said_by"], shown["alerts"][0]["note"], shown["alert_count"]) == ("ada", "I look", 1)
    assert (told["issued_by"], said["by"], said["note"]) == ("person", "ada", "I look")
    assert LOCAL not in {told["log_partition"], said["log_partition"]}  # a broker has them
    assert said["recorded_at_ns"] > told["recorded_at_ns"] > 0
