"""A supervised process is started, restarted and stopped as promised, whatever it does itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from esper.errors import LogUnavailable

READY = 'messages.write(json.dumps({"ready": True, "health_port": 7}) + "\\n")\n'
SLEEP = READY + "time.sleep(60)\n"
STUBBORN = READY + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)\n"


@pytest.mark.asyncio
async def test_announces_itself_and_stops_on_request(make_service, until):
    service = make_service(SLEEP)
    runner = asyncio.create_task(service.run())
    await asyncio.wait_for(service.ready.wait(), 10)
    status = service.status
    assert (status.state, status.health_port, status.restarts) == ("ready", 7, 0)
    assert status.pid is not None
    await service.stop()
    await asyncio.wait_for(runner, 5)
    assert service.status.state == "stopped"
    assert service.status.pid is None


@pytest.mark.asyncio
async def test_comes_back_at_once_after_its_first_kill_9(make_service, until):
    service = make_service(SLEEP)
    runner = asyncio.create_task(service.run())
    await asyncio.wait_for(service.ready.wait(), 10)
    first = service.status.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: service.status.restarts == 1 and service.status.state == "ready")
    assert service.status.pid != first
    assert service.status.last_exit == "killed by SIGKILL"
    await service.stop()
    await asyncio.wait_for(runner, 5)


@pytest.mark.serial
@pytest.mark.asyncio
async def test_a_second_crash_in_a_row_waits(make_service, until):
    service = make_service(READY + "return 3\n")
    runner = asyncio.create_task(service.run())
    await until(lambda: service.status.restarts == 2)
    since = time.monotonic()
    assert service.status.state == "waiting"
    assert service.status.last_exit == "exit code 3"
    await until(lambda: service.status.restarts == 3)
    assert 1.9 <= time.monotonic() - since <= 4.0
    runner.cancel()
    await service.stop()


@pytest.mark.asyncio
async def test_what_never_starts_is_given_up_with_its_error(make_service):
    service = make_service(
        "from esper.errors import LogUnavailable\n"
        "try:\n    raise LogUnavailable('the disk is full')\n"
        "finally:\n    print('<AIOKafkaProducer object at 0x7f>', file=sys.stderr)\n"
    )
    with pytest.raises(LogUnavailable, match=r"^program did not start: the disk is full$"):
        await asyncio.wait_for(service.run(), 10)


@pytest.mark.asyncio
async def test_what_is_never_ready_is_killed(make_service):
    service = make_service("time.sleep(60)\n", ready_s=0.3)
    with pytest.raises(LogUnavailable, match=r"program did not start: it was not ready within 0\.3 s"):
        await asyncio.wait_for(service.run(), 10)


@pytest.mark.serial
@pytest.mark.asyncio
async def test_what_ignores_sigterm_is_killed_at_the_deadline(make_service):
    service = make_service(STUBBORN)
    runner = asyncio.create_task(service.run())
    await asyncio.wait_for(service.ready.wait(), 10)
    await asyncio.sleep(0.1)  # the signal handler is set after the ready line
    since = time.monotonic()
    await service.stop(deadline_s=0.3)
    assert 0.3 <= time.monotonic() - since <= 2.0
    await asyncio.wait_for(runner, 5)
    assert service.status.last_exit == "killed by SIGKILL"


@pytest.mark.asyncio
async def test_what_it_prints_after_the_ready_line_goes_to_its_log(make_service, until):
    service = make_service(READY + "print('x' * 300_000, flush=True)\nprint('done', flush=True)\ntime.sleep(60)\n")
    runner = asyncio.create_task(service.run())
    await until(lambda: service._log.exists() and service._log.read_text().endswith("done\n"))
    await service.stop()
    await asyncio.wait_for(runner, 5)


@pytest.mark.asyncio
async def test_what_may_wait_has_its_low_priority_from_the_beginning(make_service):
    before = os.getpriority(os.PRIO_PROCESS, 0)
    service = make_service(f"assert os.nice(0) == {before + 3}\n" + SLEEP, niceness=3)
    runner = asyncio.create_task(service.run())
    await asyncio.wait_for(service.ready.wait(), 10)
    assert os.getpriority(os.PRIO_PROCESS, service.status.pid) == before + 3
    await service.stop()
    await asyncio.wait_for(runner, 5)
