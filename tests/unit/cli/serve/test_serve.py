"""Mission control: what the page is told is what the command says, and nobody else may ask or act."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from importlib import resources

import pytest

from esper.cli.app import dispatch
from esper.cli.serve import reader, watch
from esper.cli.serve.guard import is_own
from esper.cli.serve.newest import Newest, framed
from projections import open_sample, questions
from tests.unit.cli.serve.conftest import HERE, TOKEN, message

PAGES = ("/", "/page.js", "/page.css", "/report.css", "/favicon.svg", "/api/status", "/nowhere")


@pytest.fixture(scope="module")
def grown():
    with open_sample() as history:
        return questions.grown_run(history)


def said_by_command(capsys, *words):
    assert dispatch([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.requirement("R-NIS-16")
@pytest.mark.asyncio
async def test_the_status_has_breakers_queues_and_alerts(page, folder, capsys):
    async with page() as served:
        answer = await served.get("/api/status")
    told, runs = answer.json(), said_by_command(capsys, "runs", "--data-dir", str(folder))

    assert answer.status_code == 200
    assert {"breakers", "queue_depth", "alert_count", "conservative_mode", "budgets", "processes"} <= told.keys()
    assert (told["alert_count"], told["stale"]) == (0, None)
    assert [each["run_id"] for each in told["runs"]] == [each["run_id"] for each in runs]


@pytest.mark.requirement("R-NIS-17")
@pytest.mark.asyncio
async def test_the_summary_has_alerts_and_budgets_with_their_burn_rates(page, folder, capsys):
    async with page() as served:
        told = (await served.get("/api/metrics/summary")).json()
    said = said_by_command(capsys, "sql", "from slos where asked > 0", "--data-dir", str(folder))

    assert (told["alerts"], told["alert_count"], told["runs_live"]) == ([], 0, 0)
    assert told["budgets"] == said
    assert {"slo", "budget_left", "burn_1h", "burn_1d"} <= told["budgets"][0].keys()


@pytest.mark.asyncio
async def test_the_sliders_state_is_that_of_the_command(page, folder, grown, capsys):
    places = (None, "epoch:3")
    async with page() as served:
        paths = [f"/api/runs/{grown}/state{'' if at is None else f'?at={at}'}" for at in places]
        told = [(await served.get(path)).json() for path in paths]
    words = [() if at is None else ("--at", at) for at in places]
    said = [said_by_command(capsys, "state", grown, *each, "--data-dir", str(folder)) for each in words]

    assert [{name: each[name] for name in one} for each, one in zip(told, said, strict=True)] == said
    assert len({each["sequence"] for each in said}) == 2


@pytest.mark.asyncio
async def test_a_run_is_told_with_reasons_events_and_pictures(page, folder, grown, capsys):
    async with page() as served:
        told = (await served.get(f"/api/runs/{grown}")).json()
        drawn = (await served.get(f"/api/runs/{grown}/pictures?width=390")).json()
    (decided,) = said_by_command(
        capsys, "sql", f"select count(*) as n from decisions where run_id = '{grown}'", "--data-dir", str(folder)
    )

    assert told["decisions"]["total"] == decided["n"]
    assert all(each["reason"] for each in told["decisions"]["rows"] if each["chosen"] != "nothing")
    assert "run_finished" in {each["type"] for each in told["events"]}
    assert told["verdict"]
    for name in ("loss", "seeds"):
        picture, frame = drawn[name]["svg"], drawn[name]["frame"]
        assert 'viewBox="0 0 380 ' in picture
        assert "style=" not in picture  # the page's policy allows no style of an element
        assert 0 < frame["left"] < frame["right"] <= 380


@pytest.mark.asyncio
async def test_what_there_is_not_is_said_so(page):
    async with page() as served:
        unknown = await served.get("/api/runs/zzzz")
        nowhere = await served.get("/api/runs/last/state?at=epoch:99")
        wide = await served.get("/api/runs/last/pictures?width=-1")

    assert [each.status_code for each in (unknown, nowhere, wide)] == [404, 404, 404]
    assert "there is no run 'zzzz'" in unknown.json()["error"]
    assert "has no epoch 99" in nowhere.json()["error"]


# -------------------- who may ask, and act


@pytest.mark.asyncio
async def test_a_browser_is_told_to_run_nothing_from_elsewhere(bare):
    async with bare() as served:
        answers = [await served.get(path) for path in PAGES]

    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers
    assert [answer.status_code for answer in answers] == [200] * (len(PAGES) - 1) + [404]


def test_its_files_ask_nobody_else():
    files = {
        each.name: each.read_text("utf-8") for each in resources.files("esper.cli.serve").joinpath("page").iterdir()
    }

    assert {"index.html", "page.css", "page.js"} <= files.keys()
    for name, text in files.items():
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), name
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|\sstyle=|javascript:", files["index.html"])
    assert "innerHTML" not in files["page.js"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1234"}, 200),
        ({"Host": "[::1]:1234"}, 200),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "192.168.1.7:8000"}, 403),
        ({"Origin": f"http://{HERE}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
@pytest.mark.asyncio
async def test_only_this_page_may_ask_it(bare, headers, status):
    async with bare() as served:
        answer = await served.get("/page.js", **headers)
        async with served.socket(**{name.lower(): value for name, value in headers.items()}) as (sent, _, _):
            first = await asyncio.wait_for(sent.get(), 30)

    assert answer.status_code == status
    assert first["type"] == ("websocket.accept" if status == 200 else "websocket.close")


@pytest.mark.parametrize(
    ("bound", "name", "own"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "10.0.0.7", False),
        ("0.0.0.0", "10.0.0.7", True),
        ("0.0.0.0", "rebound.example", False),
        ("box.lan", "box.lan", True),
        ("127.0.0.1", "", False),
    ],
)
def test_by_which_names_it_may_be_called(bound, name, own):
    assert is_own(name, bound) is own


@pytest.mark.requirement("R-NIS-20")
@pytest.mark.asyncio
async def test_who_acts_needs_a_session_and_has_twenty_changes_a_minute(bare):
    async with bare() as served:
        path, body = "/api/runs/last/tell", {"words": "grow bigger"}  # which is nothing that a run can be told
        without = await served.client.post(path, json=body)
        key = await served.key()
        changes = [await served.act(path, body, key) for _ in range(21)]
        another = await served.act(path, body, await served.key())
        served.clock.now += 61
        later = await served.act(path, body, key)
        served.clock.now += 8 * 3600
        over = await served.act(path, body, key)

    assert without.status_code == 401
    assert [each.status_code for each in changes] == [409] * 20 + [429]
    assert changes[-1].headers["retry-after"] == "60"
    assert (another.status_code, later.status_code, over.status_code) == (409, 409, 401)


@pytest.mark.requirement("R-NIS-20")
@pytest.mark.asyncio
async def test_a_token_cannot_be_guessed(bare):
    async with bare() as served:
        wrong = [(await served.session(f"guess-{n}")).status_code for n in range(21)]
        right = (await served.session()).status_code
        served.clock.now += 61
        after = await served.session()
        counted = served.site._metrics.value("esper_serve_refused_total", status="429")

    assert wrong == [401] * 20 + [429]
    assert (right, after.status_code, counted) == (429, 200, 2.0)
    assert TOKEN not in after.text


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"words": "pause"}', "text/plain", 415),
        (b'{"words": "' + b"x" * 5000 + b'"}', "application/json", 413),
        (b"[1]", "application/json", 400),
        (b"[" * 4000, "application/json", 400),
        (b'{"words": 1}', "application/json", 400),
        (b'{"words": "grow bigger"}', "application/json", 409),
    ],
)
@pytest.mark.asyncio
async def test_a_body_that_is_none_changes_nothing(bare, content, kind, status):
    async with bare() as served:
        headers = {"Authorization": f"Bearer {await served.key()}", "Content-Type": kind}
        answer = await served.client.post("/api/runs/last/tell", content=content, headers=headers)

    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.mark.requirement("R-NIS-18")
@pytest.mark.asyncio
async def test_an_alert_that_there_is_not_cannot_be_acknowledged(page):
    async with page() as served:
        answer = await served.act("/api/alerts/ffff/ack", {"by": "ada", "note": ""}, await served.key())

    assert answer.status_code == 404
    assert "there is no alert 'ffff'" in answer.json()["error"]


@pytest.mark.asyncio
async def test_on_the_network_reading_needs_a_session_too(bare):
    async with bare(host="0.0.0.0") as served:
        without = await served.get("/api/status")
        key = await served.key()
        with_one = await served.get("/api/status", Authorization=f"Bearer {key}")
        async with served.socket() as (sent, _, _):
            closed = await asyncio.wait_for(sent.get(), 30)
        still = await served.get("/")

    assert (without.status_code, with_one.status_code, still.status_code) == (401, 200, 200)
    assert closed["type"] == "websocket.close"


# -------------------- the socket


@pytest.mark.requirement("R-NIS-19")
@pytest.mark.asyncio
async def test_a_socket_hears_every_five_seconds_how_things_are(bare):
    async with bare() as served, served.socket() as (sent, _, _):
        assert (await asyncio.wait_for(sent.get(), 30))["type"] == "websocket.accept"
        first = await message(sent)
        served.clock.now += 5
        second = await message(sent)

    assert watch.BEAT_S == 5.0
    assert [(each["number"], each["skipped"]) for each in (first, second)] == [(1, 0), (2, 0)]
    assert {"queue_depth", "alert_count", "conservative_mode"} <= second["state"].keys()


@pytest.mark.asyncio
async def test_a_slow_client_is_sent_the_newest_and_told_what_it_missed(bare):
    async with bare() as served, served.socket() as (slow, _, gate), served.socket() as (quick, _, _):
        for sent in (slow, quick):
            assert (await asyncio.wait_for(sent.get(), 30))["type"] == "websocket.accept"
            assert (await message(sent))["number"] == 1
        gate.clear()
        seen = []
        for number in range(2, 502):
            served.site.watch.newest.put(f'{{"at": {number}}}')
            seen.append((await message(quick))["skipped"])
        assert slow.qsize() == 0  # nothing is piled up for it
        gate.set()
        in_flight, newest = await message(slow), await message(slow)

    assert seen == [0] * 500
    assert (in_flight["number"], in_flight["skipped"]) == (2, 0)  # it was being sent when the client stopped reading
    assert (newest["number"], newest["skipped"], newest["state"]) == (501, 498, {"at": 501})


@pytest.mark.asyncio
async def test_who_talks_to_the_socket_is_hung_up_on(bare):
    async with bare() as served, served.socket() as (sent, said, _):
        assert (await asyncio.wait_for(sent.get(), 30))["type"] == "websocket.accept"
        said.put_nowait({"type": "websocket.receive", "text": "hello"})
        while (found := await asyncio.wait_for(sent.get(), 30))["type"] != "websocket.close":
            pass

    assert found["code"] == 1008


def test_a_message_says_how_many_were_skipped():
    newest = Newest()
    newest.put('{"a": 1}')

    assert json.loads(framed(newest.number, 0, newest.text)) == {"number": 1, "skipped": 0, "state": {"a": 1}}
    assert json.loads(framed(7, 3, "null"))["skipped"] == 3


# -------------------- when things are not well


@pytest.mark.requirement("R-NIS-21")
@pytest.mark.asyncio
async def test_a_history_that_cannot_be_read_leaves_the_last_that_could(page, tmp_path, folder, grown):
    shutil.copytree(folder, tmp_path / "data")
    manifest = tmp_path / "data" / "archive" / "manifest.json"
    whole = manifest.read_bytes()
    async with page(tmp_path / "data") as served:
        before = (await served.get("/api/status")).json()
        state = (await served.get(f"/api/runs/{grown}/state")).json()
        manifest.write_text("{", "utf-8")
        served.clock.now += 10
        broken = await served.get("/api/status")
        kept = await served.get(f"/api/runs/{grown}/state")
        never = await served.get(f"/api/runs/{grown}")
        manifest.write_bytes(whole)
        served.clock.now += 10
        again = (await served.get("/api/status")).json()

    assert before["stale"] is None
    assert [broken.status_code, kept.status_code, never.status_code] == [200, 200, 404]
    assert broken.json()["runs"] == before["runs"]
    assert "manifest" in broken.json()["stale"]
    assert {**kept.json(), "stale": None} == state
    assert (again["stale"], again["runs"]) == (None, before["runs"])


@pytest.mark.asyncio
async def test_a_folder_without_a_history_is_waited_for(page, tmp_path, folder):
    (tmp_path / "data").mkdir()
    async with page(tmp_path / "data") as served:
        nothing = await served.get("/api/status")
        shutil.copytree(folder / "archive", tmp_path / "data" / "archive")
        served.clock.now += 10
        there = (await served.get("/api/status")).json()

    assert (nothing.status_code, nothing.json()["runs"]) == (200, [])
    assert "holds no history" in nothing.json()["stale"]
    assert len(there["runs"]) == 5


@pytest.mark.asyncio
async def test_twenty_pages_that_ask_for_the_same_are_one_question(page, grown, monkeypatch):
    asked = []
    async with page() as served:
        asks = served.site.watch._asked
        real = asks._keep
        monkeypatch.setattr(asks, "_keep", lambda key, kept: (asked.append(key), real(key, kept)))
        answers = await asyncio.gather(*[served.get(f"/api/runs/{grown}/state?at=40") for _ in range(20)])
        read = len(asked)
        for n in range(100):
            await served.site.watch.ask(("n", n), lambda _history, _tails: {})
        kept = len(asks._kept)

    assert len({each.text for each in answers}) == read == 1
    assert kept == reader.MOST_KEPT  # and what is kept does not grow
