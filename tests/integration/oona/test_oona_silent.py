"""A log that falls silent at any moment of a start: one plain error, and nothing that the interpreter has to add."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading

import pytest

from esper.errors import LogUnavailable
from streams import consumer, trainer_log, writer
from streams.topics import ensure_topics
from streams.trainer_log import KafkaLog

ALL = -1
MOMENTS = {
    "connect": ALL,
    "what it speaks (ApiVersions)": 18,
    "its brokers (Metadata)": 3,
    "topic settings (DescribeConfigs)": 32,
    "the producer's id (InitProducerId)": 22,
    "the log's ends (ListOffsets)": 2,
}


class Silent:
    """Hands requests on to a broker and answers back, but for requests of one kind, which nobody answers."""

    def __init__(self, address, kind):
        self._host, port = address.rsplit(":", 1)
        self._port, self._kind = int(port), kind
        self.asked = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self):
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self._server.close()
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _end(self):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)

    async def _serve(self, reader, writer):
        there, back = await asyncio.open_connection(self._host, self._port)
        answers = asyncio.create_task(self._answers(there, writer))
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while True:
                    size = await reader.readexactly(4)
                    request = await reader.readexactly(int.from_bytes(size, "big"))
                    if self._kind in (ALL, int.from_bytes(request[:2], "big")):
                        self.asked = True
                        continue
                    back.write(size + request)
        finally:
            answers.cancel()
            back.close()
            writer.close()

    async def _answers(self, there, writer):
        """The broker says where it is to be asked: here."""
        named, here = self._port.to_bytes(4, "big"), self.port.to_bytes(4, "big")
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = await there.readexactly(4)
                answer = await there.readexactly(int.from_bytes(size, "big"))
                writer.write(size + answer.replace(named, here))


def start(address, ring, metrics):
    """What a run's start does with the log, each by itself; what it says of those that fail."""
    steps = (
        lambda: asyncio.run(ensure_topics(address, timeout_s=0.4)),
        lambda: consumer.ends_of(address),
        lambda: KafkaLog(address, ring, run_id="run-silent", metrics=metrics).close(),
    )
    said = []
    for step in steps:
        try:
            step()
        except LogUnavailable as error:
            said.append(str(error))
    return said


@pytest.mark.requirement("R-OPS-14")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_log_that_falls_silent_while_a_run_starts_is_one_error_and_no_more(
    log, ring, metrics, monkeypatch, caplog, capfd, moment
):
    asyncio.run(ensure_topics(log.address))
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    for module in (trainer_log, writer):
        monkeypatch.setattr(module, "CONNECT_S", 0.4)
    monkeypatch.setattr(consumer, "TIMEOUT_S", 0.4)
    with Silent(log.address, MOMENTS[moment]) as silent:
        address = f"127.0.0.1:{silent.port}"
        refused = start(address, ring, metrics)
        gc.collect()

    assert silent.asked
    assert refused
    assert all(address in each and "\n" not in each for each in refused)
    said = capfd.readouterr().err + "".join(each.getMessage() for each in caplog.records if each.name == "asyncio")
    assert ignored == []
    for ugly in ("Exception ignored", "Event loop is closed", "Task was destroyed", "never awaited", "Unclosed"):
        assert ugly not in said
