"""What clients may hold of the broker: nobody fills its memory, holds it up, or locks the others out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

import pytest

from streams.broker.batch import checked
from streams.broker.connection import MAX_PRODUCE_BYTES
from streams.broker.limits import Limits, owned
from streams.broker.registry import TopicRow
from streams.broker.server import Broker, listening_socket

MIB = 1 << 20
VERSIONS = struct.pack(">ihhih", 10, 18, 0, 7, -1)
DEFAULTS = Limits()


class Served:
    """A broker in this process with limits of its own, and bare connections to it."""

    def __init__(self, broker, port):
        self.broker = broker
        self.port = port
        self._writers = []

    @property
    def peers(self):
        return self.broker.core.peers

    async def connect(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    async def asked(self):
        """A connection that has sent a request and has its answer."""
        reader, writer = await self.connect()
        await ask(reader, writer)
        return reader, writer

    def look(self, later_s=0.0):
        """As the broker does every few seconds; as if it were later."""
        self.peers.look(asyncio.get_running_loop().time() + later_s)

    async def close(self):
        for writer in self._writers:
            writer.close()
        await self.broker.stop()


async def ask(reader, writer):
    writer.write(VERSIONS)
    async with asyncio.timeout(5):
        size = int.from_bytes(await reader.readexactly(4), "big")
        return await reader.readexactly(size)


async def closed(reader):
    """Whether the broker has cut the connection, as soon as that is seen."""
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(5):
            return await reader.read(1) == b""
    return True


async def settle():
    """Lets the event loop do what is due, on both ends of each socket."""
    for _ in range(20):
        await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def serving(tmp_path, **limits):
    broker = Broker(tmp_path / "log", Limits(**limits), anonymous=True)
    sock = listening_socket(0)
    await broker.start(sock)
    served = Served(broker, sock.getsockname()[1])
    try:
        yield served
    finally:
        await served.close()


def half_a_produce(size, sent):
    return struct.pack(">ihhih", size, 0, 8, 1, -1) + bytes(sent)


def test_the_defaults_hold_what_they_promise():
    assert DEFAULTS.connections * DEFAULTS.small_bytes <= 64 * MIB
    assert DEFAULTS.in_flight_bytes >= 2 * MAX_PRODUCE_BYTES


@pytest.mark.asyncio
async def test_half_sent_requests_hold_no_more_than_their_budget(tmp_path):
    """30 of 2 MiB with a budget of 4 MiB: as many are received as fit, the others wait in their sockets."""
    async with serving(tmp_path, in_flight_bytes=4 * MIB) as served:
        for _ in range(30):
            (await served.connect())[1].write(half_a_produce(2 * MIB, 2 * MIB - 100))
        for _ in range(20):
            await settle()
        held = [len(peer._buffer) for peer in served.peers]

        assert sum(size > MIB for size in held) == 2
        assert sum(held) < 4 * MIB + 28 * 2 * DEFAULTS.small_bytes
        assert await ask(*await served.connect()), "a small request is answered at once"


@pytest.mark.asyncio
async def test_a_request_that_waits_for_room_is_served_when_there_is(tmp_path, batch_of):
    async with serving(tmp_path, in_flight_bytes=MIB, small_bytes=1024, frame_s=5.0) as served:
        served.broker.core.store.create(TopicRow("t", 1, {"max.message.bytes": str(MIB)}))
        held, held_writer = await served.connect()
        held_writer.write(half_a_produce(MIB - 100, 5_000))
        await settle()
        records = batch_of(b"x" * 300_000)
        body = struct.pack(">hhiih", -1, -1, 1000, 1, 1) + b"t" + struct.pack(">iii", 1, 0, len(records)) + records
        request = struct.pack(">hhih", 0, 8, 9, -1) + body
        reader, writer = await served.connect()
        writer.write(struct.pack(">i", len(request)) + request)
        await settle()
        assert served.broker.core.store.partition("t", 0).end == 0
        served.look(6.0)

        assert await closed(held)
        async with asyncio.timeout(5):
            await reader.readexactly(8)
        assert served.broker.core.store.partition("t", 0).end == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("sent", "later_s", "why"),
    [
        (b"", DEFAULTS.first_request_s, "no request after 10 s"),
        (half_a_produce(MAX_PRODUCE_BYTES, 100), DEFAULTS.frame_s, "a request is not whole after 15 s"),
        (b"\0", DEFAULTS.frame_s, "a request is not whole after 15 s"),
        (VERSIONS, DEFAULTS.idle_s, "no request for 600 s"),
    ],
    ids=["silent", "half-a-request", "a-byte", "idle"],
)
async def test_what_leads_to_nothing_is_cut_after_its_time_and_not_before(tmp_path, caplog, sent, later_s, why):
    async with serving(tmp_path) as served:
        reader, writer = await served.connect()
        writer.write(sent)
        await settle()
        served.look(later_s - 1.0)
        assert len(served.peers) == 1
        served.look(later_s + 1.0)
        await settle()

        assert len(served.peers) == 0
        assert why in caplog.text
        if sent != VERSIONS:
            assert await closed(reader)


@pytest.mark.asyncio
async def test_an_answer_that_nobody_takes_is_dropped_and_leaves_room_for_others(tmp_path, batch_of):
    """Ten readers that ask for 16 MiB each and read nothing; a part of it is in the system's own buffers."""
    async with serving(tmp_path, unsent_bytes=20 * MIB) as served:
        store = served.broker.core.store
        store.create(TopicRow("t", 1, {"max.message.bytes": str(MIB)}))
        records = batch_of(bytes(1_000_000))
        for _ in range(20):
            store.partition("t", 0).append(records, checked(records, MIB), 1, 1 << 30)
        fetch = struct.pack(">hhih", 1, 4, 5, -1) + struct.pack(">iiiib", -1, 0, 1, 16 * MIB, 0)
        fetch += struct.pack(">ih", 1, 1) + b"t" + struct.pack(">iiqi", 1, 0, 0, 16 * MIB)
        for _ in range(10):
            sock = socket.create_connection(("127.0.0.1", served.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(struct.pack(">i", len(fetch)) + fetch)
            _, writer = await asyncio.open_connection(sock=sock)
            writer.transport.pause_reading()
            served._writers.append(writer)
            await settle()
        unsent = sum(peer.unsent for peer in served.peers)
        served.look(DEFAULTS.stalled_s + 1.0)
        await settle()

        assert 8 * MIB < unsent < 20 * MIB + 10 * MIB
        assert len(served.peers) < 10
        assert sum(peer.unsent for peer in served.peers) == 0  # a small one may be in the system's buffers


@pytest.mark.asyncio
async def test_silent_connections_lock_nobody_out(tmp_path):
    async with serving(tmp_path, connections=8) as served:
        ours = [await served.asked() for _ in range(3)]
        silent = [await served.connect() for _ in range(20)]
        late = [await served.asked() for _ in range(4)]

        assert len(served.peers) == 8
        assert all([await ask(*each) for each in (*ours, *late)]), "who has asked before goes last"
        assert sum([await closed(reader) for reader, _ in silent[:19]]) == 19


@pytest.mark.asyncio
async def test_other_users_leave_our_processes_their_places_and_their_room(tmp_path):
    """Every other client is another user's here; the system's list of sockets would say so."""
    strangers = set()
    async with serving(tmp_path, connections=8, in_flight_bytes=8 * MIB, small_bytes=1024) as served:
        served.peers.owned = lambda ends: [client[1] not in strangers for client, _ in ends]
        for number in range(12):
            sock = socket.socket()
            sock.bind(("127.0.0.1", 0))
            if number >= 4:
                strangers.add(sock.getsockname()[1])
            sock.connect(("127.0.0.1", served.port))
            _, writer = await asyncio.open_connection(sock=sock)
            served._writers.append(writer)
            if number >= 4:
                writer.write(half_a_produce(3 * MIB, MIB))
            else:
                writer.write(VERSIONS)
            await settle()
        theirs = [peer for peer in served.peers if peer.ends[0][1] in strangers]
        mine = [peer for peer in served.peers if peer not in theirs]
        _, writer = await served.connect()
        writer.write(half_a_produce(4 * MIB, 3 * MIB))
        await settle()

        assert (len(mine), len(theirs)) == (4, 4)
        assert sum(len(peer._buffer) > MIB // 2 for peer in theirs) == 1
        assert max(len(peer._buffer) for peer in served.peers if peer not in theirs) > 2 * MIB


def test_the_system_says_whose_a_socket_is(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        accepted, address = server.accept()
        with accepted:
            listed = Path("/proc/net/tcp").read_text()
            assert owned([(address, server.getsockname())]) == [True]
    other = tmp_path / "tcp"
    port = f"0100007F:{address[1]:04X}"
    rows = [line.split() for line in listed.splitlines()]
    for row in rows[1:]:
        if row[1] == port:
            row[7] = "54321"
    other.write_text("\n".join(map(" ".join, rows)))

    nowhere = (("127.0.0.1", 1), ("127.0.0.1", 2))
    assert owned([(address, server_name(rows, port)), nowhere], other) == [False, False], "nor who is not in the list"
    assert owned([nowhere], tmp_path / "none") == [True], "a system without such a list has no strangers"


def server_name(rows, port):
    host, number = next(row[2] for row in rows if row[1] == port).split(":")
    return ".".join(str(each) for each in reversed(bytes.fromhex(host))), int(number, 16)
