"""Which requests are understood: one table of API, versions and handler.

Every API is advertised up to its last version without tagged fields: kio 0.6.5 cannot skip a tag that it does not
know, and all clients negotiate down. ApiVersions itself is answered in its version 3, whose request need not be read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from kio.index import load_request_schema, load_response_schema
from kio.schema.errors import ErrorCode

from streams.broker.core import Caller, Core
from streams.broker.handlers import fetch, groups, produce, topics
from streams.broker.protocol import Fields

Answer = Fields | None
"""None: nothing is sent (a produce request with acks=0)."""
Handler = Callable[[Core, Caller, Any], Answer | Awaitable[Answer] | fetch.LongPoll]
API_VERSIONS: Final = 18
PRODUCE: Final = 0


@dataclass(frozen=True, slots=True)
class Api:
    """An API as advertised. Versions below `read_from` are advertised and refused (see `APIS`)."""

    key: int
    read_from: int
    last: int
    handle: Handler
    first: int = -1

    @property
    def advertised_from(self) -> int:
        """The first version in the list that clients get."""
        return self.read_from if self.first < 0 else self.first


def _api_versions(_core: Core, _caller: Caller, _request: Any) -> Fields:
    return {"error_code": ErrorCode.none, "api_keys": advertised()}


_ALL: Final = (
    # librdkafka compresses only for brokers that list Produce from version 0 (KAFKA-18659); Kafka 4 does the same.
    Api(PRODUCE, 3, 8, produce.produce, first=0),
    Api(1, 4, 11, fetch.fetch),
    Api(2, 1, 5, fetch.list_offsets),
    Api(3, 0, 8, topics.metadata),
    Api(8, 2, 7, groups.commit),
    Api(9, 1, 5, groups.committed),
    Api(10, 0, 2, topics.find_coordinator),
    Api(11, 0, 5, groups.join),
    Api(12, 0, 3, groups.heartbeat),
    Api(13, 0, 3, groups.leave),
    Api(14, 0, 3, groups.sync),
    Api(15, 0, 4, groups.describe),
    Api(16, 0, 2, groups.list_groups),
    Api(API_VERSIONS, 0, 3, _api_versions),
    Api(19, 2, 4, topics.create_topics),
    Api(20, 1, 3, topics.delete_topics),
    Api(21, 0, 1, topics.delete_records),
    Api(22, 0, 1, produce.init_producer_id),
    Api(32, 1, 3, topics.describe_configs),
    Api(37, 0, 1, topics.create_partitions),
    Api(42, 0, 1, groups.delete),
)
APIS: Final[dict[int, Api]] = {api.key: api for api in _ALL}


@cache
def request_schema(key: int, version: int) -> type[Any]:
    """The kio class of a request."""
    return load_request_schema(key, version)


@cache
def response_schema(key: int, version: int) -> type[Any]:
    """The kio class of a response."""
    return load_response_schema(key, version)


def advertised() -> list[Fields]:
    """The version list as ApiVersions answers it."""
    return [{"api_key": a.key, "min_version": a.advertised_from, "max_version": a.last} for a in _ALL]
