"""What a person does on the page is an event on the log: a run is told, and an alert is known to somebody."""

from __future__ import annotations

import asyncio
import time

import pytest

from esper.cli.history import history_of
from esper.leyline.envelope import new_event
from esper.weatherlight import client
from projections.run_queries import rows
from streams.keys import load_key_ring
from streams.metrics import Metrics
from streams.producer import publish_once
from streams.settings import Settings
from tests.endless import endless_run

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from contracts.leyline.v1.event_pb2 import AlertFired  # noqa: E402 - as above
from contracts.topics import LOCAL  # noqa: E402
from esper.cli.serve.site import Site  # noqa: E402

TOKEN = "the-token-of-this-page"


@pytest.fixture
def _training(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with endless_run(tmp_path / "data", pause_s=0.005, policy="none"):
        yield


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
@pytest.mark.usefixtures("_training")
def test_what_a_person_does_on_the_page_is_on_the_log(tmp_path):
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
