"""A staged policy that does badly is left by itself: what follows the reports of all runs says so on the log."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from contracts.leyline.v1.event_pb2 import PolicyPromoted, PolicyTrained, PolicyValidated
from contracts.leyline.v1.leyline_pb2 import FIELD_REPORT_OUTCOME_REGRESSION, FieldReport
from contracts.topics import POLICIES
from esper.leyline.envelope import new_event
from esper.simic.versions import POLICY, fold
from esper.tamiyo.staging import serves
from streams.agents.stages import Stages
from streams.producer import Publisher
from streams.reader import past

CLOCK = itertools.count(time.time_ns())


def said(*bodies, run_id=""):
    """Events that come one after another, with ids of their own."""
    return [
        new_event(
            body,
            event_id=f"{run_id:>14}{place:2}".encode(),
            run_id=run_id,
            producer="test",
            recorded_at_ns=next(CLOCK),
        )
        for place, body in enumerate(bodies)
    ]


def version(name, share):
    named = {"policy_id": POLICY, "policy_version": name, "weights_ref": f"sha256:{name}"}
    return (
        PolicyTrained(**named),
        PolicyValidated(**named, passed=True),
        PolicyPromoted(**named, share=share, architecture=f"of {name}", by="ada"),
    )


@pytest.mark.requirement("R-SIM-40")
def test_a_staged_policy_whose_runs_went_badly_is_left_for_the_live_one_once(own_log, ring, metrics):
    runs = [run for run in (f"run{number}" for number in range(1_000)) if serves(run, "1.1.0", 0.5)][:20]
    policies = said(*version("1.0.0", 0.0), *version("1.1.0", 0.5))
    reports = [
        each
        for run in runs
        for each in said(
            *[
                FieldReport(
                    version=1,
                    tamiyo_policy_version="1.1.0",
                    training_run_id=run,
                    outcome=FIELD_REPORT_OUTCOME_REGRESSION,
                )
            ]
            * 6,
            FieldReport(version=1, tamiyo_policy_version="1.1.0", training_run_id=run, notes="run_ended"),
            run_id=run,
        )
    ]

    async def follow(publisher, *, until) -> list:
        stages = Stages(own_log.address, ring, publisher, metrics, lambda: True)
        following = asyncio.create_task(stages.follow())
        try:
            async with asyncio.timeout(20.0):
                while True:
                    found = [event async for event in past(own_log.address, ring, POLICIES)]
                    if following.done() or until(found):
                        return found
                    await asyncio.sleep(0.05)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def story() -> list:
        publisher = Publisher(own_log.address, ring, metrics)
        await publisher.start()
        try:
            await publisher.publish(policies + reports[:-1])
            following = asyncio.create_task(follow(publisher, until=lambda found: len(found) > len(policies)))
            await publisher.publish(reports[-1:])
            return await following
        finally:
            await publisher.stop()

    found = asyncio.run(story())

    versions = fold(found)
    assert (versions.live, versions.staged, versions.rollbacks) == ("1.0.0", "", 1)
    assert len(found) == len(policies) + 1
    back = found[-1].policy_promoted
    assert (back.by, back.rolled_back_from, back.architecture) == ("simic", "1.1.0", "of 1.0.0")
    assert back.reason.startswith("0 of 20 staged runs")
