"""The events of a run in Elasticsearch, by its own client: one document an event, under the event's id.

So a run that is sent again, or was broken off, has each of its events once. Behind a breaker: an Elasticsearch that
takes nothing is given up after a few requests, and what was taken stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from esper.errors import InvalidInput
from esper.leyline import ids
from esper.leyline.breaker import CircuitBreaker
from esper.leyline.envelope import Event, body_name, body_of
from projections.interchange.libraries import library

EXTRA: Final = "elasticsearch"
INDEX: Final = "esper-events"
_BULK: Final = 500
_FAILURES: Final = 3
_WAIT_S: Final = 0.5
_REQUEST_S: Final = 30
_KEYWORDS: Final = ("event_id", "causation_id", "correlation_id", "run_id", "producer", "body")
_NUMBERS: Final = ("sequence", "incarnation", "timeline", "step", "epoch")
MAPPINGS: Final[Mapping[str, Any]] = {
    "properties": {
        "@timestamp": {"type": "date_nanos"},
        **{name: {"type": "keyword"} for name in _KEYWORDS},
        **{name: {"type": "long"} for name in _NUMBERS},
        "said": {"type": "flattened"},  # an index has at most a thousand fields, and bodies have more
    }
}


class Sink:
    """An Elasticsearch at `address`; `password` is that of the user `elastic`, empty for one without security.

    `monotonic` and `sleep` are a clock. Raises InvalidInput where the client is not installed.
    """

    def __init__(
        self,
        address: str,
        password: str,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._address, self._sleep = address, sleep
        self._errors = library("elasticsearch.exceptions", EXTRA)
        self._helpers = library("elasticsearch.helpers", EXTRA)
        self._breaker = CircuitBreaker(EXTRA, failures=_FAILURES, in_a_row=True, monotonic=monotonic)
        self._client = library("elasticsearch", EXTRA).Elasticsearch(
            address,
            basic_auth=("elastic", password) if password else None,
            max_retries=0,
            request_timeout=_REQUEST_S,
        )

    def push(self, events: Iterable[Event]) -> int:
        """Index them; how many. Raises InvalidInput where they are not taken, in one line."""
        try:
            self._guarded(self._make_index)
            documents, taken = (document(event) for event in events), 0
            while some := list(islice(documents, _BULK)):
                taken += self._guarded(lambda some=some: self._helpers.bulk(self._client, some)[0])  # type: ignore[misc]
            return taken
        finally:
            self._client.close()

    def _make_index(self) -> int:
        """The index with its mappings, where there is none."""
        if not self._client.indices.exists(index=INDEX):
            self._client.indices.create(index=INDEX, mappings=MAPPINGS)
        return 0

    def _guarded(self, request: Callable[[], int]) -> int:
        """Make a request until it is answered or the breaker opens."""
        while True:
            try:
                answer = request()
            except (self._errors.TransportError, self._errors.ApiError, self._helpers.BulkIndexError) as error:
                said = next(iter(str(error).splitlines()), type(error).__name__)
                if not self._passes(error):
                    raise InvalidInput(f"Elasticsearch at {self._address} refuses the events: {said}") from None
                self._breaker.failed(said)
                if not self._breaker.allows:
                    raise InvalidInput(
                        f"Elasticsearch at {self._address} took nothing {_FAILURES} times in a row ({said}); what it "
                        "has stays, and the same command goes on"
                    ) from None
                self._sleep(_WAIT_S)
            else:
                self._breaker.succeeded()
                return answer

    def _passes(self, error: Exception) -> bool:
        """Whether it may be otherwise in a moment: nobody answers, or it has too much to do."""
        status = getattr(getattr(error, "meta", None), "status", None)
        return isinstance(error, self._errors.TransportError) or status in {429, 502, 503, 504}


def document(event: Event) -> dict[str, Any]:
    """An event as the client's bulk helper takes it."""
    seconds, nanoseconds = divmod(event.recorded_at_ns, 10**9)
    kept = {
        "@timestamp": f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z",
        "event_id": ids.text(event.event_id),
        "run_id": event.run_id,
        "producer": event.producer,
        "body": body_name(event),
        "sequence": event.sequence,
        "incarnation": event.incarnation,
        "timeline": event.timeline,
        "step": event.global_step,
        "epoch": event.epoch,
        "said": MessageToDict(body_of(event), preserving_proto_field_name=True),
        **dict(_causes(event)),
    }
    return {"_op_type": "index", "_index": INDEX, "_id": kept["event_id"], "_source": kept}


def _causes(event: Event) -> Iterator[tuple[str, str]]:
    for name in ("causation_id", "correlation_id"):
        if value := getattr(event, name):
            yield name, ids.text(value)
