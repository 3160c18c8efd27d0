"""Faust as we run it: a commit that the log does not take is made again, and what comes again is committed."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from aiokafka.errors import CommitFailedError
from faust.tables.manager import TableManager

from contracts.topics import PARTITIONS, RUNS
from streams.app import FaustConsumer, add_agent, make_app
from streams.producer import Publisher
from streams.records import partition_of
from tests.integration.oona.oona_processes import committed


class LosingCommits:
    """What the group's coordinator does in a rebalance: it takes no commit while `losing`."""

    def __init__(self, monkeypatch):
        self.losing = True
        self.lost = 0
        commit = FaustConsumer.commit

        async def losing(consumer, offsets=None):
            if not self.losing:
                return await commit(consumer, offsets)
            self.lost += 1
            raise CommitFailedError("the group has already rebalanced")

        monkeypatch.setattr(FaustConsumer, "commit", losing)


@contextlib.asynccontextmanager
async def agent_of_runs(group, log, data_dir):
    """A running app with one agent on the runs' topic, and the offsets of what the agent has handled."""
    app = make_app(group, log.address, data_dir, embedded=True)
    handled = []

    async def take(record):
        handled.append((record.partition, record.offset))

    add_agent(app, "noting", [RUNS], take)
    app.finalize()
    await app.start()
    try:
        yield app, handled
    finally:
        await app.stop()


async def until(condition, timeout_s=20.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.02)


@pytest.fixture
def publish(own_log, ring, metrics, events):
    """Publishes facts of one run; all lie on one partition."""

    async def publish(count):
        publisher = Publisher(own_log.address, ring, metrics)
        await publisher.publish([events.fact() for _ in range(count)])
        await publisher.stop()

    return publish


def test_a_commit_that_is_lost_is_made_again(monkeypatch, own_log, tmp_path, publish, run_id):
    """No other record has to come for that."""
    commits = LosingCommits(monkeypatch)
    partition = partition_of(run_id.encode(), PARTITIONS)

    async def scenario():
        async with agent_of_runs("losing", own_log, tmp_path) as (_, handled):
            await publish(3)
            await until(lambda: commits.lost and len(handled) == 3)
            commits.losing = False
            return await committed(own_log, "losing", partition, 3)

    assert asyncio.run(scenario()) == 3


def test_the_consumer_lives_in_the_loop_of_its_app(own_log, tmp_path, publish):
    """Faust would give it a thread, and every record two more hand-overs of the interpreter; it also ends whole."""
    before = threading.active_count()

    async def scenario():
        async with agent_of_runs("alone", own_log, tmp_path) as (_, handled):
            await publish(3)
            await until(lambda: len(handled) == 3)
            threads = threading.active_count()
        return threads, [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    threads, left = asyncio.run(scenario())
    assert threads == before
    assert left == []


def test_what_comes_again_after_a_lost_commit_is_handled_again_and_committed(
    monkeypatch, own_log, tmp_path, publish, run_id
):
    """A rebalance: the commit before it is lost, and the consumer returns to what is committed, which is nothing."""
    commits = LosingCommits(monkeypatch)
    partition = partition_of(run_id.encode(), PARTITIONS)

    async def scenario():
        async with agent_of_runs("returning", own_log, tmp_path) as (app, handled):
            await publish(3)
            await until(lambda: commits.lost and len(handled) == 3)
            await app.consumer.perform_seek()
            await until(lambda: len(handled) == 6)
            commits.losing = False
            return handled, await committed(own_log, "returning", partition, 3)

    handled, position = asyncio.run(scenario())

    assert handled == [(partition, offset) for offset in (0, 1, 2)] * 2
    assert position == 3


def test_a_process_that_ends_after_a_lost_commit_leaves_its_records_to_the_next(
    monkeypatch, own_log, tmp_path, publish, run_id
):
    commits = LosingCommits(monkeypatch)
    partition = partition_of(run_id.encode(), PARTITIONS)

    async def scenario():
        async with agent_of_runs("ending", own_log, tmp_path) as (_, first):
            await publish(3)
            await until(lambda: commits.lost and len(first) == 3)
        commits.losing = False
        async with agent_of_runs("ending", own_log, tmp_path) as (_, second):
            await until(lambda: len(second) == 3)
            return first, second, await committed(own_log, "ending", partition, 3)

    first, second, position = asyncio.run(scenario())

    assert first == second
    assert position == 3


def test_an_app_asks_for_its_partitions_at_once(monkeypatch, own_log, tmp_path):
    """Faust waits a second first, for tables to be declared; a run's first step waits for decider and worker."""
    waits = []

    async def wait(_manager, seconds):
        waits.append(seconds)

    monkeypatch.setattr(TableManager, "sleep", wait)

    async def scenario():
        async with agent_of_runs("quick", own_log, tmp_path) as (app, _):
            await until(lambda: app.consumer.assignment() and not app.rebalancing)
            return len(app.consumer.assignment())

    assert asyncio.run(scenario()) == PARTITIONS
    assert waits == []
