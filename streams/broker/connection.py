"""One client connection: which requests are understood, frames in, answers out, strictly in order.

Every API is advertised up to its last version without tagged fields: kio 0.6.5 cannot skip a tag that it does not
know, and all clients negotiate down. ApiVersions itself is answered in its version 3, whose request need not be read.

Most requests are answered inside `data_received`, without a task: that is what keeps a round trip short. A request
that has to wait (a join, a sync of the disk) holds back those behind it, as in Kafka, and is cancelled when the client
goes away. A fetch that waits for records is answered as soon as another request comes behind it.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, cast

from kio.index import load_request_schema, load_response_schema
from kio.schema.errors import ErrorCode

from streams.broker.core import Caller, Core
from streams.broker.entrance import API_VERSIONS, CLOSED, STRANGERS_BYTES, Entrance, handshake, welcome
from streams.broker.handlers import absent, groups, topics
from streams.broker.handlers.records import LongPoll, fetch, init_producer_id, list_offsets, produce
from streams.broker.limits import Peers
from streams.broker.protocol import Fields, Malformed, read_message, read_string, write_message, write_produced

Answer = Fields | None
"""None: nothing is sent (a produce request with acks=0)."""
Handler = Callable[[Core, Caller, Any], Answer | Awaitable[Answer] | LongPoll]

PRODUCE: Final = 0
_LOG: Final = logging.getLogger(__name__)
MAX_PRODUCE_BYTES: Final = 64 * 1024 * 1024
"""One batch of 1 MiB for each of 64 partitions; all other requests are small."""
MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
_PIPELINE_BYTES: Final = 256 * 1024
"""Bytes read ahead while a request waits; then the client has to wait, too."""
_SIZE_AND_KEY: Final = struct.Struct(">ih")
_HEADER: Final = struct.Struct(">hhi")


@dataclass(frozen=True, slots=True)
class Api:
    """An API as advertised. Versions below `read_from` are advertised and refused (see `APIS`).

    `unread`: its handler needs nothing of the request, which is not looked at. `silent`: it is answered, and not in the
    list, since clients would take it for there.
    """

    key: int
    read_from: int
    last: int
    handle: Handler
    first: int = -1
    unread: bool = False
    silent: bool = False

    @property
    def advertised_from(self) -> int:
        """The first version in the list that clients get."""
        return self.read_from if self.first < 0 else self.first


def _api_versions(_core: Core, _caller: Caller, _request: Any) -> Fields:
    return {"error_code": ErrorCode.none, "api_keys": advertised()}


_ALL: Final = (
    # librdkafka compresses only for brokers that list Produce from version 0 (KAFKA-18659); Kafka 4 does the same.
    Api(PRODUCE, 3, 8, produce, first=0),
    Api(1, 4, 11, fetch),
    Api(2, 1, 5, list_offsets),
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
    # librdkafka looks for version 0, after which tokens come as bare bytes, and then uses version 1.
    Api(17, 1, 1, handshake, first=0),
    Api(API_VERSIONS, 0, 3, _api_versions, unread=True),
    Api(19, 2, 4, topics.create_topics),
    Api(20, 1, 3, topics.delete_topics),
    Api(21, 0, 1, topics.delete_records),
    Api(22, 0, 1, init_producer_id),
    *(Api(key, 0, 2, absent.transaction, silent=True) for key in (24, 25, 26, 28)),
    Api(32, 1, 3, topics.describe_configs),
    Api(33, 0, 1, topics.alter_configs),
    Api(36, 0, 1, welcome),
    Api(37, 0, 1, topics.create_partitions),
    Api(42, 0, 1, groups.delete),
    Api(44, 0, 0, topics.alter_some_configs),
    Api(68, 0, 1, absent.new_group, unread=True),
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
    return [{"api_key": a.key, "min_version": a.advertised_from, "max_version": a.last} for a in _ALL if not a.silent]


class Connection(asyncio.Protocol):
    """The protocol object of one connection; `peers` has all that are open, and what they may hold."""

    def __init__(self, core: Core, peers: Peers) -> None:
        self._core = core
        self._peers = peers
        self._entrance = None if core.secret is None else Entrance(core.secret)
        self._buffer = bytearray()
        self._waiting: asyncio.Task[None] | None = None
        self._long_poll: LongPoll | None = None
        self._writable = True
        self._transport: asyncio.Transport | None = None
        self._host = ""
        self._reached = ("", 0)
        self._now = asyncio.get_running_loop().time
        self._starved = False
        self.own: bool | None = None
        self.ends = (("", 0), ("", 0))
        self.asked = False
        self.heard_at = self._now()
        self.frame_since: float | None = None
        self.stalled_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Lets the client in, or closes at once where there is no place for it."""
        self._transport = cast("asyncio.Transport", transport)
        client = tuple(transport.get_extra_info("peername")[:2])
        self._host = str(client[0])
        self._reached = tuple(transport.get_extra_info("sockname")[:2])
        self.ends = (client, self._reached)
        if not self._peers.admit(self):
            self.close("all connections are taken")
            return
        self._core.counters.connections += 1
        self._core.counters.open_connections = len(self._peers)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Ends what the client waited for."""
        self._peers.drop(self)
        self._core.counters.open_connections = len(self._peers)
        self._transport = None
        self._buffer.clear()
        if self._waiting is not None:
            self._waiting.cancel()
        if self._long_poll is not None:
            self._long_poll.cancel()

    def pause_writing(self) -> None:
        """The client does not read: nothing more is worked on for it."""
        self._writable = False
        self.stalled_since = self._now()
        self._peers.stalled.add(self)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._writable = True
        self.stalled_since = None
        self._peers.stalled.discard(self)
        self._pump()

    def data_received(self, data: bytes) -> None:
        """Takes what came and works on every whole request in it."""
        self._buffer += data
        if self._long_poll is not None:
            self._long_poll.end()  # what is asked now would have to wait behind it
        self._pump()

    def close(self, why: str = "") -> None:
        """Cuts the connection; `why` is for the operator."""
        if why:
            _LOG.warning("connection of %s closed: %s", self._host, why)
        if self._transport is not None:
            self._transport.abort()

    def go_on(self) -> None:
        """There is room for the request that is being received; its time counts from now."""
        self._starved = False
        self.frame_since = self._now()
        self._pump()

    @property
    def busy(self) -> bool:
        """Whether a request waits, and those behind it with it."""
        return self._waiting is not None or self._long_poll is not None

    @property
    def unsent(self) -> int:
        """Bytes of answers that the client has not taken."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _pump(self) -> None:
        try:
            while self._transport is not None and not self.busy and self._writable:
                frame = self._next_frame()
                if frame is None:
                    break
                self._serve(frame)
        except Malformed as malformed:
            self._core.counters.malformed += 1
            _LOG.warning("%s sent what is no request (%s): connection closed", self._host, malformed)
            self.close()
        except Exception:  # noqa: BLE001 - a request must not end the broker, whatever is wrong with it or us
            self._give_up()
        self._balance()

    def _give_up(self) -> None:
        _LOG.exception("a request of %s failed: connection closed", self._host)
        self.close()

    def _balance(self) -> None:
        """Reads on, unless requests pile up behind one that waits."""
        if self._transport is None or self._transport.is_closing():
            return
        held = self.busy or not self._writable
        if self._starved or (held and len(self._buffer) > _PIPELINE_BYTES):
            self._transport.pause_reading()
        elif not self._transport.is_reading():
            self._transport.resume_reading()

    def _next_frame(self) -> bytes | None:
        if len(self._buffer) < _SIZE_AND_KEY.size:
            self._incomplete()
            return None
        size, key = _SIZE_AND_KEY.unpack_from(self._buffer)
        limit = MAX_PRODUCE_BYTES if key == PRODUCE else MAX_REQUEST_BYTES
        if self._entrance is not None:
            limit = STRANGERS_BYTES
        if not _HEADER.size <= size <= limit:
            raise Malformed(f"a request of {size} bytes: {_HEADER.size} to {limit} are possible")
        if len(self._buffer) < 4 + size:
            self._starved = not self._peers.reserve(self, size)
            self._incomplete()
            return None
        with memoryview(self._buffer) as view:
            frame = bytes(view[4 : 4 + size])
        del self._buffer[: 4 + size]
        if size > self._peers.limits.small_bytes:
            self._peers.release(self)
        self.frame_since, self.heard_at, self.asked = None, self._now(), self._entrance is None
        return frame

    def _incomplete(self) -> None:
        """A request has begun and is not whole; an empty buffer is none."""
        if self._buffer and self.frame_since is None:
            self.frame_since = self._now()

    def _serve(self, frame: bytes) -> None:
        key, version, correlation_id = _HEADER.unpack_from(frame)
        api = APIS.get(key)
        self._core.counters.requests += 1
        if api is None or not api.read_from <= version <= api.last:
            self._refuse(key, version, correlation_id)
            return
        try:
            client_id, position = read_string(frame, _HEADER.size)
        except (struct.error, UnicodeDecodeError) as error:
            raise Malformed(f"header: {error}") from error
        caller = Caller(client_id or "", self._host, self._reached, version)
        if self._entrance is not None and not self._entrance.heeds(key):
            self._core.refuse_stranger(caller, CLOSED)
            self.close()
            return
        request = None if api.unread else read_message(request_schema(key, version), frame, position)
        if self._entrance is not None:
            told = self._entrance.answer(key, self._core, caller, request)
            self._send(
                _api_versions(self._core, caller, request) if told is None else told, api, version, correlation_id
            )
            self._let_in(self._entrance)
            return
        answer = api.handle(self._core, caller, request)
        if isinstance(answer, LongPoll) and self._buffer:  # another request is here already
            answer.cancel()
            self._send(answer.answer(), api, version, correlation_id)
        elif isinstance(answer, LongPoll):
            self._long_poll = answer
            answer.deliver = partial(self._deliver, answer, api, version, correlation_id)
        elif isinstance(answer, Awaitable):
            task = self._finish(answer, api, version, correlation_id)
            self._waiting = asyncio.get_running_loop().create_task(task)
        else:
            self._send(answer, api, version, correlation_id)

    def _let_in(self, entrance: Entrance) -> None:
        """Whoever named the secret is asked no more; who named another is closed, once it has read so."""
        if entrance.passed:
            self._entrance, self.asked = None, True
        elif entrance.failed and self._transport is not None:
            self._transport.close()
            self._transport = None

    def _refuse(self, key: int, version: int, correlation_id: int) -> None:
        """A client that speaks a newer ApiVersions learns what there is; any other unknown request ends it."""
        if key != API_VERSIONS or version < 0:
            raise Malformed(f"API {key} version {version}: not advertised")
        answer: dict[str, Any] = {"error_code": ErrorCode.unsupported_version, "api_keys": advertised()}
        self._send(answer, APIS[key], 0, correlation_id)

    async def _finish(self, answer: Awaitable[Answer], api: Api, version: int, correlation_id: int) -> None:
        try:
            self._send(await answer, api, version, correlation_id)
        except Exception:  # noqa: BLE001 - as in _pump
            self._give_up()
        self._waiting = None
        self._pump()

    def _deliver(self, poll: LongPoll, api: Api, version: int, correlation_id: int) -> None:
        """Called in the midst of the request that wrote the records: nothing here may fail it."""
        try:
            self._send(poll.answer(), api, version, correlation_id)
        except Exception:  # noqa: BLE001 - as in _pump
            self._give_up()
        self._long_poll = None
        self._pump()

    def _send(self, answer: Answer, api: Api, version: int, correlation_id: int) -> None:
        if answer is None or self._transport is None:
            return
        if api.key == PRODUCE:
            self._transport.write(write_produced(version, correlation_id, answer))
        else:
            self._transport.write(write_message(response_schema(api.key, version), correlation_id, answer))
