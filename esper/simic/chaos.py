"""Six kinds of trouble that a candidate and its training must come through: each really happens here, on small copies.

Each scenario returns what is wrong afterwards, empty where everything is as it was. Folders are temporary ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from esper.errors import EsperError, InvalidInput
from esper.leyline.objects import ObjectStore
from esper.simic.experience import Experience, broken
from esper.simic.replay_buffer import BufferSettings, ReplayBuffer
from esper.simic.trainer import Trainer, TrainingSettings
from esper.tamiyo import weights
from esper.tamiyo.decide import decide
from esper.tamiyo.policies import learned

STATES: Final = 12
_TRAINING: Final = TrainingSettings(epochs=2, steps_per_epoch=1, batch=4, curriculum=False)


@dataclass(frozen=True, slots=True)
class Stage:
    """What the scenarios play with: the candidate's file, and the decisions that it is tried on."""

    candidate: bytes
    corpus: Sequence[Experience]
    observations: Sequence[bytes]


def network_partition(stage: Stage) -> str:
    """The store of weights cannot be reached when a policy is announced, and later can."""
    with tempfile.TemporaryDirectory() as folder:
        store, away = ObjectStore(Path(folder) / "objects"), ObjectStore(Path(folder) / "away")
        reference = store.put(stage.candidate)
        try:
            learned.policy(reference, away)
        except InvalidInput:
            pass
        else:
            return "weights were taken from a store that does not have them"
        return "" if learned.policy(reference, store).weights == reference[7:] else "other weights came back"


def memory_pressure(stage: Stage) -> str:
    """The replay buffer may have half of what the experience takes."""
    items = list(stage.corpus[:STATES])
    budget = sum(each.nbytes for each in items) // 2
    buffer = ReplayBuffer(BufferSettings(minimum=1, memory_bytes=budget))
    for each in items:
        buffer.store(each)
    if not 0 < len(buffer) < len(items) or buffer.nbytes > budget:
        return f"the buffer holds {len(buffer)} of {len(items)} experiences in {buffer.nbytes} of {budget} bytes"
    drawn = buffer.draw(4, torch.Generator().manual_seed(0), conservative=True)
    return "" if drawn.experiences else "nothing could be drawn any more"


def gpu_failure(stage: Stage) -> str:
    """The device is gone between two steps, and with it all state of the training but the last checkpoint."""
    saved: list[bytes] = []
    whole = _trainer(stage)
    whole.train(save=saved.append)
    again = _trainer(stage)
    again.restore(saved[0])
    if again.step != _TRAINING.steps_per_epoch:
        return "the training began anew instead of at its checkpoint"
    again.train()
    ours, theirs = whole.network.state_dict(), again.network.state_dict()
    same = all(torch.equal(each, theirs[name]) for name, each in ours.items())
    return "" if same else "the training went on to other weights than without the failure"


def data_corruption(stage: Stage) -> str:
    """A byte of the weights' length, and a number of an experience, are others than they were."""
    try:
        weights.load(bytes([stage.candidate[0] ^ 0xFF]) + stage.candidate[1:])
    except weights.Refused:
        pass
    else:
        return "a damaged file was loaded as weights"
    graph = stage.corpus[0].graph.clone()
    graph["global"].x[0, 0] = torch.nan
    return "" if broken(graph) and not broken(stage.corpus[0].graph) else "a number that is none was not found"


def timing_variations(stage: Stage) -> str:
    """Packets come in another order and twice, and the machine has another number of threads."""
    policy = learned.policy(stage.candidate)
    forwards = [decide(each, policy, 0.5).logits for each in stage.observations]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        backwards = [decide(each, policy, 0.5).logits for each in (*reversed(stage.observations), *stage.observations)]
    finally:
        torch.set_num_threads(threads)
    expected = [*reversed(forwards), *forwards]
    return "" if backwards == expected else "its decisions depend on the order of packets or the number of threads"


def resource_starvation(stage: Stage) -> str:
    """There is too little experience to train on, and then there is enough."""
    trainer = _trainer(replace(stage, corpus=stage.corpus[:1]), minimum=2)
    before = {name: each.clone() for name, each in trainer.network.state_dict().items()}
    try:
        trainer.train()
    except EsperError:
        pass
    else:
        return "it trained on less than the minimum"
    if any(not torch.equal(each, before[name]) for name, each in trainer.network.state_dict().items()):
        return "a training that could not begin changed weights"
    for each in stage.corpus[1:3]:
        trainer.buffer.store(each)
    trainer.train()
    return ""


SCENARIOS: Final[dict[str, Callable[[Stage], str]]] = {
    "network_partition": network_partition,
    "memory_pressure": memory_pressure,
    "gpu_failure": gpu_failure,
    "data_corruption": data_corruption,
    "timing_variations": timing_variations,
    "resource_starvation": resource_starvation,
}


def _trainer(stage: Stage, minimum: int = 1) -> Trainer:
    """A short training of a copy of the candidate."""
    buffer = ReplayBuffer(BufferSettings(minimum=minimum))
    for each in stage.corpus[:STATES]:
        buffer.store(each)
    return Trainer(weights.load(stage.candidate).network, buffer, _TRAINING, monotonic=lambda: 0.0)
