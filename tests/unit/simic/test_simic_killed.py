"""A training that is killed over and over comes to the weights that it comes to when nothing happens (soak)."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import time

import pytest
import torch

from esper.simic import checkpoint
from esper.simic.replay_buffer import BufferSettings, ReplayBuffer
from esper.simic.trainer import Trainer, TrainingSettings
from esper.tamiyo import weights
from esper.tamiyo.network import make

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
