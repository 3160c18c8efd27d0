"""Trains what is missing, as many runs at a time as there are cores, and writes each row when its run ends."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from tests.bench.growth import training
from tests.bench.growth.jobs import Job
from tests.bench.growth.ledger import Ledger, Row
from tests.bench.growth.plan import Scope, make_plan


def work(ledger: Ledger, scope: Scope, workers: int, tell: Callable[[Row, int], object]) -> dict[tuple[str, ...], str]:
    """Train until nothing of the scope is missing; `tell` gets each row and how many are still missing.

    Returns the keys of the jobs that broke, with the error: they and what depends on them are still missing. Ends at
    once on Ctrl-C: what is finished is written, and the next call goes on from there.
    """
    broken: dict[tuple[str, ...], str] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        running: dict[Future[Row], Job] = {}
        try:
            while True:
                plan = make_plan(ledger, scope)
                busy = {job.key for job in running.values()} | broken.keys()
                for job in plan.ready:
                    if len(running) >= workers:
                        break
                    if job.key not in busy:
                        busy.add(job.key)
                        running[pool.submit(one, job, ledger.code)] = job
                if not running:
                    return broken
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    job = running.pop(future)
                    if (error := future.exception()) is not None:
                        broken[job.key] = f"{type(error).__name__}: {error}"
                        continue
                    ledger.append(future.result())
                    tell(future.result(), len(plan.missing) - 1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):  # a run of minutes is not waited for
                process.terminate()
            raise


def one(job: Job, code: str) -> Row:
    """The row of a job, with the version of the code and the time of day."""
    return training.run(job) | {"code": code, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
