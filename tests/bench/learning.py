"""How fast Simic learns: PPO beside Stable-Baselines3's, rollouts beside a plain loop, and its own budgets.

    python -m tests.bench.learning

All by processor time, one thread, on one machine in one process, the two of a pair in turns. PPO plays CartPole-v1 with
CleanRL's settings on both sides. A rollout is a fork that takes nothing in place of a decision half-way and goes on to
the end of its run; beside it a loop without Esper takes as many steps on the same data and judges the probe set after
as many epochs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from esper.leyline.objects import ObjectStore
from esper.simic import experience
from esper.simic.replay_buffer import BufferSettings, ReplayBuffer
from esper.simic.rollouts import Rollouts
from esper.simic.trainer import Trainer, TrainingSettings
from esper.tamiyo.network import make
from esper.tolaria.config import RunConfig
from esper.tolaria.outside import Clock
from esper.tolaria.tasks import load_task
from tests.bench.plain_loop import PlainLoop
from tests.bench.table import Row

TASK, EPOCHS = "tab", 20
_CLOCK = Clock(time.monotonic, time.time_ns)


def rows(*, full: bool = False) -> list[Row]:
    """PPO, rollouts, and the budgets of R-SIM-12 and R-SIM-26."""
    torch.set_num_threads(1)
    return [*_ppo(steps=65_536 if full else 16_384), *_rollouts(count=20 if full else 6), *_budgets()]


def spent(each: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    began = time.process_time()
    each()
    return time.process_time() - began


def _ppo(steps: int) -> list[Row]:
    """Environment steps a processor second, ours and theirs, three of each in turns."""
    if find_spec("gymnasium") is None:
        return []
    import gymnasium

    from tests.unit.simic.test_simic_cartpole import train

    fixture = f"CartPole-v1, {steps:,} steps, 4 environments x 128, 4 epochs of 4 minibatches, 64-64 tanh"
    theirs_too = find_spec("stable_baselines3") is not None
    ours, theirs = list[float](), list[float]()
    for seed in range(3):
        ours.append(spent(lambda: train(gymnasium, seed, steps)))  # noqa: B023 - called at once
        if theirs_too:
            theirs.append(spent(lambda: _stable_baselines(seed, steps)))  # noqa: B023 - called at once
    own = Row("PPO, steps a processor second", steps / sorted(ours)[1], "/s", fixture)
    if not theirs_too:
        return [own, Row("PPO beside Stable-Baselines3: skipped, it is not installed", 0.0, "", fixture)]
    other = Row("Stable-Baselines3's PPO, steps a processor second", steps / sorted(theirs)[1], "/s", fixture)
    ratio = sorted(theirs)[1] / sorted(ours)[1]
    return [own, other, Row("PPO beside Stable-Baselines3's", ratio, "x", fixture, 1.0, at_least=True)]


def _stable_baselines(seed: int, steps: int) -> None:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=4, seed=seed),
        learning_rate=lambda left: 2.5e-4 * left,
        n_steps=128,
        batch_size=128,
        n_epochs=4,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        clip_range_vf=0.2,
        ent_coef=0.01,
        vf_coef=0.5,
        max_grad_norm=0.5,
        seed=seed,
        device="cpu",
    )
    model.learn(steps)


def _rollouts(count: int) -> list[Row]:
    """Rollouts an hour and core, beside as many steps of a plain loop."""
    task = load_task(TASK)
    config = RunConfig(task=TASK, seed=1, policy="heuristic", epochs=EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        rollouts = Rollouts(task, ObjectStore(Path(folder)), _CLOCK)
        lived = rollouts.live(config, "parent")
        decided = lived.decisions[EPOCHS // 2 - 1]
        left = EPOCHS - decided.packet.epoch
        pairs = [
            (
                spent(lambda: rollouts.roll_out(lived, decided, "nothing", order + 1, "rollout")),  # noqa: B023
                spent(lambda: _plain(left)),
            )
            for order in range(count)
        ]
    ours, plain = (sorted(each)[count // 2] for each in zip(*pairs, strict=True))
    fixture = f"{TASK}, {left} of {EPOCHS} epochs, {count} in turns with the plain loop, median of processor time"
    return [
        Row("rollouts an hour and core", 3600 / ours, "/h", fixture),
        Row("the same in a plain loop", 3600 / plain, "/h", fixture),
        Row("rollouts beside the plain loop", plain / ours, "x", fixture),
    ]


def _plain(epochs: int) -> None:
    task = load_task(TASK)
    loop, steps = PlainLoop(task, epochs), task.steps(task.batch_size)
    for _ in range(epochs):
        loop.begin_epoch()
        loop.steps(steps)
        loop.host.eval()
        with torch.no_grad():
            float(task.loss(loop.host(task.probe.inputs), task.probe.targets))


def _budgets() -> list[Row]:
    """R-SIM-12: storing, drawing, batching, giving up; R-SIM-26: a training step over 32."""
    from tests.unit.simic.conftest import make_experience

    corpus = [make_experience(number) for number in range(64)]
    kept = ReplayBuffer(BufferSettings(minimum=32))
    stored = spent(lambda: [kept.store(each) for each in corpus]) / len(corpus)
    generator, rounds = torch.Generator().manual_seed(0), 20
    drawn = kept.draw(32, generator)
    drawing = spent(lambda: [kept.draw(32, generator) for _ in range(rounds)]) / rounds
    batching = spent(lambda: [experience.batched(drawn.experiences) for _ in range(rounds)]) / rounds
    settings = TrainingSettings(epochs=1, steps_per_epoch=8, batch=32)
    trainer = Trainer(make("small", 0), kept, settings, monotonic=time.monotonic)
    step = spent(trainer.train) / settings.total_steps
    fixture = "graphs of 2 to 3 sites, processor time, one thread"
    return [
        Row("R-SIM-12, storing an experience", 1e3 * stored, "ms", fixture, 5.0),
        Row("R-SIM-12, drawing 32", 1e3 * drawing, "ms", fixture, 50.0),
        Row("R-SIM-12, batching 32", 1e3 * batching, "ms", fixture, 30.0),
        Row("R-SIM-26, a training step over 32", 1e3 * step, "ms", fixture, 500.0),
        Row("R-SIM-26, experiences a second", 32 / step, "/s", fixture, 180.0, at_least=True),
    ]


if __name__ == "__main__":
    for row in rows(full="--full" in sys.argv):
        sys.stdout.write(f"{row.what}: {row.measured:,.2f} {row.unit} ({row.fixture}) {row.verdict}\n")
