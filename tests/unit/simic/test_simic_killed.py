"""A training that is killed over and over comes to the weights that it comes to when nothing happens (soak)."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter

import pytest
import torch

from esper.simic import checkpoint
from esper.simic.headroom import Headroom, Plan
from esper.simic.ledger import Ledger, _key_of
from esper.simic.replay_buffer import BufferSettings, ReplayBuffer
from esper.simic.trainer import Trainer, TrainingSettings
from esper.tamiyo import weights
from esper.tamiyo.network import make
from esper.testing import REAL_CLOCK
from tests.unit.simic.test_simic_headroom import TASK

SETTINGS = TrainingSettings(epochs=30, steps_per_epoch=1, batch=8, seed=7)


def go_on(corpus, folder, *, keep=True) -> None:
    """Train to the end from the newest checkpoint, and write down what it came to."""
    torch.set_num_threads(1)
    buffer = ReplayBuffer(BufferSettings(minimum=8))
    for each in corpus:
        buffer.store(each)
    trainer = Trainer(make(seed=1), buffer, SETTINGS, monotonic=time.monotonic)
    kept = checkpoint.load(folder / "training")
    if kept is not None:
        trainer.restore(kept)
    trainer.train(save=lambda state: checkpoint.save(folder / "training", state) if keep else None)
    digest = hashlib.sha256(weights.save(trainer.network, "1.0.0")).hexdigest()
    checkpoint.save(folder / "done", digest.encode())


def test_the_newest_checkpoint_is_there_whole_or_none_is(tmp_path):
    path = tmp_path / "learn" / "training"

    assert checkpoint.load(path) is None
    checkpoint.save(path, b"first")
    checkpoint.save(path, b"second")
    assert checkpoint.load(path) == b"second"
    assert [each.name for each in path.parent.iterdir()] == ["training"]


def dies_at(row: int, moment: str) -> None:
    """Have this process end as by kill -9 when it writes that many rows: before, in the middle of the line, after."""
    written, append = itertools.count(1), Ledger.append

    def killed(ledger, key, values):
        is_it = next(written) == row
        if is_it and moment == "in it":
            with ledger.path.open("a") as file:
                file.write(json.dumps({"format": 1, "what_of": ledger.what, **key._asdict(), **values})[:-9])
        if is_it and moment != "after":
            os.kill(os.getpid(), signal.SIGKILL)
        made = append(ledger, key, values)
        if is_it:
            os.kill(os.getpid(), signal.SIGKILL)
        return made

    Ledger.append = killed


def roll_out(task, folder, *dies) -> None:
    """Measure to the end, from the rows that there are."""
    torch.set_num_threads(1)
    if dies:
        dies_at(*dies)
    plan = Plan(tasks=(task,), states=4, states_a_run=2, actions=3, first_seed=4)
    assert Headroom(plan, folder, REAL_CLOCK).work()


def measured(folder) -> dict:
    """What every row says, but for the times in it and in what was seen."""
    rows = Ledger(folder / "rows.jsonl").rows
    return {
        key: {name: value for name, value in row.items() if name not in {"wall_s", "observation"}}
        for key, row in rows.items()
    }


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_kills_of_a_trainer_of_rollouts_lose_nothing_and_double_nothing(tmp_path):
    """A rollout whose row is on the disk is not trained again, and the rows are those of one that nobody killed."""
    path = tmp_path / "small.py"
    path.write_text(TASK)
    task, fork, draw, kills, last = f"{path}:small", multiprocessing.get_context("fork"), random.Random(5), 0, 0
    roll_out(task, tmp_path / "whole")
    expected = measured(tmp_path / "whole")
    rollouts = sum(key.kind == "rollout" for key in expected)

    while kills < 50:
        folder = tmp_path / str(last)
        last += 1
        is_over = False
        while not is_over:
            dies = (draw.randint(2, 5), draw.choice(("before", "in it", "after")))  # at 1 it might never get on
            process = fork.Process(target=roll_out, args=(task, folder, *dies))
            process.start()
            process.join()
            is_over = process.exitcode == 0
            kills += process.exitcode == -signal.SIGKILL
            assert process.exitcode in {0, -signal.SIGKILL}
        lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines() if line.endswith("}")]
        trained = Counter(_key_of(row) for row in lines if row["kind"] == "rollout")
        assert measured(folder) == expected
        assert set(trained.values()) == {1}
    sys.stderr.write(f"{kills} kills in {last} measurements of {rollouts} rollouts\n")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_kills_change_no_weight(corpus, tmp_path):
    (tmp_path / "whole").mkdir()
    fork = multiprocessing.get_context("fork")
    whole = fork.Process(target=go_on, args=(corpus, tmp_path / "whole"), kwargs={"keep": False})
    started = time.monotonic()
    whole.start()
    whole.join()
    took_s = time.monotonic() - started
    expected = checkpoint.load(tmp_path / "whole" / "done")
    draw, kills, trainings = random.Random(3), 0, 0

    while kills < 50:
        folder = tmp_path / str(trainings)
        folder.mkdir()
        trainings += 1
        while checkpoint.load(folder / "done") is None:
            process = fork.Process(target=go_on, args=(corpus, folder))
            process.start()
            process.join(draw.uniform(0.05, 0.6) * took_s)
            if process.is_alive():
                process.kill()
                process.join()
                kills += 1
        assert checkpoint.load(folder / "done") == expected

    assert expected is not None
    assert trainings > 5
    sys.stderr.write(f"{kills} kills in {trainings} trainings\n")
