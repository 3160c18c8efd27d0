"""Events to Elasticsearch, by what its own client sends: bulks, documents, and a breaker where nobody takes them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from esper.errors import InvalidInput
from projections import open_sample
from projections.run_queries import EventReader
from tests.listening import Answers, listening

pytest.importorskip("elasticsearch")

from projections.interchange import elastic as elastic_module
from projections.interchange.elastic import MAPPINGS, Sink


class Elastic:
    """As much of the protocol as the client uses; `busy` requests are answered with 429 first."""

    def __init__(self) -> None:
        self.documents: dict[str, dict] = {}
        self.mappings: dict = {}
        self.bulks = self.busy = 0
        self.given: set[str] = set()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict]:
        if path.startswith("/_bulk"):
            if self.busy:
                self.busy -= 1
                return 429, {"error": {"type": "es_rejected_execution_exception"}, "status": 429}
            self.bulks += 1
            lines = [json.loads(line) for line in body.splitlines()]
            items = []
            for action, source in zip(lines[::2], lines[1::2], strict=True):
                place = action["index"]
                self.documents[place["_id"]] = source
                items.append({"index": {"_index": place["_index"], "_id": place["_id"], "status": 201}})
            return 200, {"took": 1, "errors": False, "items": items}
        if method == "HEAD":
            return (200 if self.mappings else 404), {}
        self.mappings = json.loads(body)["mappings"]
        return 200, {"acknowledged": True}


@pytest.fixture
def elastic() -> Iterator[tuple[str, Elastic]]:
    state = Elastic()

    class Handler(Answers):
        def respond(self):
            state.given.add(self.headers.get("Authorization") or "")
            status, said = state.answer(self.command, self.path, self.body())
            of_json = "application/vnd.elasticsearch+json;compatible-with=9"
            self.reply(status, json.dumps(said).encode(), X_Elastic_Product="Elasticsearch", Content_Type=of_json)

    with listening(Handler) as address:
        yield address, state


@pytest.fixture(scope="module")
def events(run):
    with open_sample() as history:
        return list(EventReader(history, run.run_id).new())


def sink(address: str, password: str = "") -> Sink:
    return Sink(address, password, monotonic=lambda: 0.0, sleep=lambda _: None)


def test_every_event_is_a_document_under_its_id_and_again_the_same(elastic, events, monkeypatch):
    address, state = elastic
    monkeypatch.setattr(elastic_module, "_BULK", 100)
    state.busy = 2  # one less than opens the breaker

    assert sink(address, "a password").push(events) == len(events) > 300
    assert state.bulks == -(-len(events) // 100)
    assert sink(address, "a password").push(events) == len(events) == len(state.documents)
    assert state.mappings == MAPPINGS
    assert len(state.given) == 1
    assert all(each.startswith("Basic ") for each in state.given)
    seen = next(each for each in state.documents.values() if each["body"] == "seed_transitioned")
    assert seen["said"]["to_stage"].startswith("SEED_LIFECYCLE_STAGE_")
    assert seen["@timestamp"].endswith("Z")
    assert len(seen["event_id"]) == 36


def test_one_that_takes_nothing_is_given_up_and_one_that_is_not_there_too(elastic, events):
    address, state = elastic
    state.busy = 99

    with pytest.raises(InvalidInput, match="took nothing 3 times in a row"):
        sink(address).push(events)
    assert state.busy == 96
    with pytest.raises(InvalidInput, match="took nothing 3 times in a row"):
        sink("http://127.0.0.1:9").push(events)
