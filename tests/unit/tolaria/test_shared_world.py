"""Two processes train one run: the same seeds at the same steps, the state compared, a rank that differs named."""

import multiprocessing
import traceback
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
from torch import distributed

from esper.errors import CorruptState
from esper.leyline.objects import ObjectStore
from esper.testing import REAL_CLOCK, MemoryLog
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Outside
from esper.tolaria.replay import NullLog
from esper.tolaria.shared_world import SharedWorld, average
from esper.tolaria.train import train
from esper.tolaria.world import LiveWorld
from tests.unit.tolaria.conftest import make_task as tiny_task

CONFIG = RunConfig(task="tiny", policy="random", decision_timeout_s=None, epochs=6, seed=1)


def live(folder, log):
    return LiveWorld(Outside(log, REAL_CLOCK, ObjectStore(folder)))


def digests(log):
    return [event.state_digested.root for event in log.events if event.HasField("state_digested")]


def trained(rank, folder):
    """The digests and germinations of rank 0's log."""
    objects = ObjectStore(folder / f"rank{rank}")
    log = MemoryLog(objects=objects) if rank == 0 else NullLog()
    result = train(CONFIG, tiny_task(), SharedWorld(live(folder / f"rank{rank}", log)), run_id="run")
    return (digests(log) if rank == 0 else [], result.test_loss, result.seeds)


def differs(rank, folder):
    """What a rank says that begins with another weight than rank 0."""
    task = tiny_task()
    make = task.make_host

    def other():
        host = make()
        if rank == 1:
            with torch.no_grad():
                next(host.parameters()).add_(1e-3)
        return host

    task = replace(task, make_host=other)
    log = MemoryLog(objects=ObjectStore(folder / f"rank{rank}")) if rank == 0 else NullLog()
    with pytest.raises(CorruptState) as raised:
        train(CONFIG, task, SharedWorld(live(folder / f"rank{rank}", log)), run_id="run")
    return str(raised.value)


def averaged(rank, _folder):
    """The gradients of three parameters, of which one has none."""
    parameters = [
        torch.nn.Parameter(torch.zeros(2)),
        torch.nn.Parameter(torch.zeros(1)),
        torch.nn.Parameter(torch.zeros(3)),
    ]
    parameters[0].grad, parameters[2].grad = torch.full((2,), 1.0 + rank), torch.arange(3.0) * rank
    average(parameters)
    return [None if each.grad is None else each.grad.tolist() for each in parameters]


def _rank(rank, folder, work, answers):
    torch.set_num_threads(1)
    where = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", where, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        answers.put((rank, work(rank, folder)))
    except BaseException:
        answers.put((rank, traceback.format_exc()))
        raise
    finally:
        distributed.destroy_process_group()


def on_two(work, folder):
    """What `work` comes to on ranks 0 and 1."""
    forks = multiprocessing.get_context("fork")
    answers = forks.Queue()
    processes = [forks.Process(target=_rank, args=(rank, folder, work, answers)) for rank in (0, 1)]
    for process in processes:
        process.start()
    try:
        found = dict(answers.get(timeout=60) for _ in processes)
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    return found[0], found[1]


def test_two_ranks_come_to_what_one_process_comes_to(tmp_path):
    log = MemoryLog(objects=ObjectStore(tmp_path / "alone"))
    alone = train(CONFIG, tiny_task(), live(tmp_path / "alone", log), run_id="run")
    assert alone.seeds["germinated"] > 0
    leads, follows = on_two(trained, tmp_path)
    assert leads == (digests(log), alone.test_loss, alone.seeds)
    assert follows[1:] == leads[1:]


def test_a_rank_that_differs_is_named_with_its_first_tensor(tmp_path):
    leads, follows = on_two(differs, tmp_path)
    assert leads == follows, (leads, follows)
    assert "rank 1 is no longer in the state of rank 0: its host/" in leads


def test_gradients_are_averaged_over_the_ranks(tmp_path):
    assert on_two(averaged, tmp_path) == 2 * ([[1.5, 1.5], None, [0.0, 0.5, 1.0]],)
