"""Training Tamiyo's network: it learns, the same each time, also when it was ended in the middle."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch

from esper.errors import CorruptState, InvalidInput
from esper.simic import ewc, lora
from esper.simic.advantages import estimates
from esper.simic.judging import imitation, judge, readouts, targets
from esper.simic.ppo import PPOSettings
from esper.simic.replay_buffer import BufferSettings, ReplayBuffer
from esper.simic.trainer import Trainer, TrainingSettings
from esper.tamiyo import graph
from esper.tamiyo.actions import EVERYTHING, legal_actions
from esper.tamiyo.network import make
from tests.unit.simic.conftest import make_experience, make_state

QUICK = TrainingSettings(epochs=3, steps_per_epoch=4, batch=16, rate=3e-3, temperature=0.05, warmup_steps=2)


def buffer_of(items) -> ReplayBuffer:
    buffer = ReplayBuffer(BufferSettings(minimum=8))
    for each in items:
        buffer.store(each)
    return buffer


def trainer_of(items, settings=QUICK, **others) -> Trainer:
    return Trainer(make(seed=1), buffer_of(items), settings, monotonic=lambda: 0.0, **others)


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in trainer.network.state_dict().items()}


def expected(trainer: Trainer, items) -> float:
    """What the policy's choice comes to in the mean."""
    with torch.no_grad():
        chances = judge(trainer.network, items).judged.choice.probabilities
    comes_to = [row[: len(each.mask)] @ each.utilities.nan_to_num() for row, each in zip(chances, items, strict=True)]
    return float(torch.stack(comes_to).mean())


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.requirement("R-SIM-17", "R-SIM-41")
@pytest.mark.parametrize("method", ["imitate", "ppo"])
def test_it_learns_to_choose_what_came_to_more(corpus, method):
    settings = replace(
        QUICK,
        method=method,
        epochs=4,
        steps_per_epoch=6 if method == "imitate" else 16,
        curriculum=False,
        rate=1e-2 if method == "imitate" else 5e-3,
        ppo=PPOSettings(target_kl=0.0, entropy_weight=0.0),
    )
    trainer = trainer_of(corpus, settings)
    trainer.network.eval()
    before = expected(trainer, corpus)
    best = sum(float(each.utilities[each.mask].max()) for each in corpus) / len(corpus)

    trained = trainer.train()

    assert expected(trainer, corpus) > before + 0.05 * (best - before)
    names = {f"simic.training.{name}" for name in ("loss", "policy_loss", "value_loss", "entropy", "lr", "iterations")}
    assert names | {"simic.buffer.size", "simic_throughput_exp_sec", "simic_training_time_ms"} <= trained.figures.keys()
    assert all(math.isfinite(each) for each in trained.figures.values())
    assert not trainer.network.training


@pytest.mark.parametrize("method", ["imitate", "ppo"])
def test_the_same_seed_gives_the_same_weights_though_it_was_ended_in_the_middle(corpus, method):
    settings = TrainingSettings(method=method, epochs=3, steps_per_epoch=2, batch=8, seed=5)
    saved: list[bytes] = []
    whole = trainer_of(corpus, settings)
    torch.manual_seed(99)  # whatever others drew before does not matter
    whole.train(save=saved.append)

    resumed = trainer_of(corpus, settings)
    resumed.restore(saved[0])
    told: list[int] = []
    resumed.train(progress=lambda one: told.append(one.step))
    other = trainer_of(corpus, TrainingSettings(method=method, epochs=3, steps_per_epoch=2, batch=8, seed=6))
    other.train()

    assert told == [4, 6]
    assert same(weights_of(whole), weights_of(resumed))
    assert not same(weights_of(whole), weights_of(other))


def test_a_checkpoint_of_another_training_and_one_that_is_none_are_refused(corpus):
    saved: list[bytes] = []
    trainer_of(corpus).train(save=saved.append)

    with pytest.raises(InvalidInput, match="other settings; begin anew"):
        trainer_of(corpus, TrainingSettings(epochs=4)).restore(saved[0])
    with pytest.raises(InvalidInput, match="other experience"):
        trainer_of(corpus[1:]).restore(saved[0])
    for damaged in (b"", saved[0][:1000], b"\x80\x04."):
        with pytest.raises(CorruptState, match="begin anew"):
            trainer_of(corpus).restore(damaged)


@pytest.mark.requirement("R-SIM-43")
def test_a_loss_that_rises_for_ten_epochs_puts_the_last_good_state_back_at_half_the_rate(corpus):
    trainer = trainer_of(corpus, TrainingSettings(epochs=100, steps_per_epoch=1, batch=8))
    trainer._rates.begin_step()
    rate = trainer._rates.rate
    held = []

    for epoch in range(14):
        with torch.no_grad():
            trainer.network.prior.weight += 1.0
        trainer._watch([1.0, 0.9, 0.5][epoch] if epoch < 3 else 1.0 + epoch)
        held.append((trainer.restored, float(trainer.network.prior.weight.detach()[0])))

    good = held[2][1]
    assert held[11] == (0, good + 9)
    assert held[12] == (1, good)
    assert held[13] == (1, good + 1)
    assert math.isclose(trainer._rates.rate, 0.5 * rate, rel_tol=1e-6)


def test_too_little_experience_is_said(corpus):
    with pytest.raises(InvalidInput, match="insufficient data: 5 experiences"):
        trainer_of(corpus[:5]).train()
    with pytest.raises(InvalidInput, match="rate and temperature above 0"):
        TrainingSettings(rate=-1.0)


@pytest.mark.requirement("R-SIM-23")
def test_adapting_trains_adapters_alone_and_leaves_the_networks_own_layers(corpus):
    settings = TrainingSettings(epochs=2, steps_per_epoch=4, batch=16, rate=1e-2, adapt=lora.LoRASettings(rank=4))
    trainer = trainer_of(corpus, settings)
    embedded = trainer.network.embed["blueprint"].weight.clone()
    names = set(make().state_dict())

    trainer.train()

    changed = {
        name for name, each in weights_of(trainer).items() if not torch.equal(each, make(seed=1).state_dict()[name])
    }
    assert set(trainer.network.state_dict()) == names
    assert changed
    assert all(name.endswith("weight") and make().state_dict()[name].dim() == 2 for name in changed)
    assert torch.equal(trainer.network.embed["blueprint"].weight, embedded)


@pytest.mark.requirement("R-SIM-24")
def test_an_anchor_holds_the_network_back(corpus):
    net = make(seed=1)
    likely = (judge(net, [each]).judged.choice.log_probability(torch.tensor([each.action]))[0] for each in corpus[:8])
    at = ewc.anchor(net, likely)
    free, held = trainer_of(corpus), trainer_of(corpus, replace(QUICK, ewc_weight=1e4), anchor=at)

    free.train()
    told = held.train()

    def moved(trainer: Trainer) -> float:
        return float(ewc.penalty(trainer.network, at, 1.0).detach())

    assert moved(held) < moved(free)
    assert told.figures["simic.training.ewc_penalty"] > 0.0


@pytest.mark.requirement("R-SIM-21")
def test_an_older_policys_decisions_are_corrected_and_the_own_are_not(lived):
    net = make(seed=1).eval()
    with torch.no_grad():
        own = judge(net, lived).judged.choice.log_probability(torch.tensor([each.action for each in lived]))
    mine = [replace(each, log_probability=float(one)) for each, one in zip(lived, own, strict=True)]

    ours, theirs = estimates(net, mine), estimates(net, lived)

    for run in range(0, len(lived), 4):
        part = [ours[each.provenance.decision_id] for each in mine[run : run + 4]]
        for one in part:  # undiscounted and paid at the end: every decision's return is the run's worth
            assert math.isclose(one.target, mine[run + 3].reward, rel_tol=1e-4)
            assert math.isclose(one.advantage, mine[run + 3].reward - one.value, rel_tol=1e-3, abs_tol=1e-5)
    assert any(abs(theirs[key].advantage - ours[key].advantage) > 1e-3 for key in ours)


def everything(number: int, wanted: str):
    """An experience of a trainer that carries out every action, of which one is worth the most."""
    each, state = make_experience(number), make_state(number)
    state.action_set = EVERYTHING
    actions, mask = legal_actions(state, EVERYTHING)
    names = [str(action) for action in actions]
    worths = torch.where(torch.tensor(mask), 0.0, math.nan)
    worths[names.index(wanted)] = 1.0
    seen = graph.build(state, actions).to_hetero()
    return replace(each, graph=seen, mask=torch.tensor(mask), action=names.index(wanted), utilities=worths)


@pytest.mark.requirement("R-TAM-9")
@pytest.mark.parametrize(
    ("wanted", "rate", "breaker"),
    [
        ("adjust x0.5", -1.0, (0, 0)),
        ("adjust x2", 1.0, (0, 0)),
        ("nothing", 0.0, (0, 0)),
        ("breaker_open", 0.0, (1, 0)),
    ],
)
def test_the_heads_of_rate_and_breaker_say_what_the_choice_says(wanted, rate, breaker):
    experiences = [everything(2, wanted), everything(3, wanted)]
    network = make(seed=1).eval()
    seen = judge(network, experiences)
    aims = targets(experiences, 1e-3)
    logits = torch.tensor([[40.0 * chance - 20.0 for chance in breaker]] * 2)
    right = replace(seen, rate=torch.full_like(seen.rate, float(rate)), breaker=logits)

    assert float(readouts(right, experiences, aims)) == pytest.approx(0.0, abs=1e-6)
    assert float(readouts(replace(right, rate=right.rate + 0.5), experiences, aims)) == pytest.approx(0.25)
    assert float(readouts(replace(right, breaker=-logits), experiences, aims)) > 10.0
    imitation(seen, experiences, torch.ones(2), 1e-3).total.backward()
    assert all(bool(each.grad.any()) for each in (network.params[-1].weight, network.breaker[-1].weight))


def test_a_trainer_that_carries_out_less_teaches_those_heads_nothing(corpus):
    seen = judge(make(seed=1), corpus[:3])
    assert float(readouts(seen, corpus[:3], targets(corpus[:3], 1e-3)).detach()) == 0.0


def test_what_is_imitated_is_the_softmax_of_what_is_known(corpus, lived):
    best = targets(corpus[:3], 1e-4)
    taken = targets(lived[:3], 1.0)

    for row in range(3):
        assert float(best[row].max()) > 0.3
        assert int(taken[row].argmax()) == lived[row].action
    assert bool((best.sum(-1) - 1).abs().max() < 1e-5)
    assert bool((best[:, : len(corpus[0].mask)][0][~corpus[0].mask] == 0).all())


@pytest.mark.requirement("R-SIM-32")
def test_every_heads_gradient_that_is_learnt_from_is_above_zero_and_outputs_are_finite(corpus):
    trainer = trainer_of(corpus, TrainingSettings(epochs=1, steps_per_epoch=3, batch=16))
    trainer.train()

    moving = {
        name.split(".")[0]
        for name, each in trainer.network.named_parameters()
        if each.grad is not None and bool(each.grad.any())
    }
    assert {
        "logit",
        "prior",
        "value",
        "risk",
        "of_action",
        "of_slot",
        "of_blueprint",
        "of_whole",
        "sage",
        "gat",
    } <= moving
    with torch.no_grad():
        outputs = judge(trainer.network, corpus)
    assert bool(outputs.judged.values.isfinite().all())
    assert bool(outputs.judged.choice.probabilities.isfinite().all())


@pytest.mark.serial
@pytest.mark.requirement("R-SIM-26")
def test_a_step_over_32_takes_less_than_half_a_second_of_a_processor(corpus):
    trainer = trainer_of(corpus, TrainingSettings(epochs=1, steps_per_epoch=8, batch=32))
    started = time.process_time()

    trainer.train()

    per_step = (time.process_time() - started) / 8
    assert per_step < 0.5
    assert 32 / per_step > 180
