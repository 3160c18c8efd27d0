"""Insert, then prove: a seed that does not prove itself is undone to the bit, and the run's history still holds."""

from __future__ import annotations

import pytest
import torch

from contracts.leyline.v1.leyline_pb2 import (
    SEED_LIFECYCLE_STAGE_CULLED,
    SEED_LIFECYCLE_STAGE_FOSSILIZED,
    SEED_LIFECYCLE_STAGE_PROBATIONARY,
)
from esper.cli.run_view import RunView
from esper.errors import InvalidInput
from esper.kasmina.settings import SeedSettings
from esper.leyline.envelope import body_name
from esper.testing import REAL_CLOCK
from esper.tolaria.fork_change import place_of, read_change
from esper.tolaria.replay import latest_checkpoint, replay_run
from esper.tolaria.state import load_checkpoint
from esper.tolaria.tasks import Site
from tests.unit.retrace.lives import tiny

ALWAYS, NEVER = 0.0, 1e6
"""Standard errors that a proof asks for: what any fall of the loss passes, and what nothing does."""
WIDE = (Site("1", "vector"), Site("4", "vector"), Site("0", "vector", consumer="3"))
"""The tiny host's places with one, s3, where a layer can become wider."""
POOL = ("BP008", "BP013", "BP014", "BP016")
"""What is no larger than the tiny host."""


def swift(benefit_z: float = NEVER, **changes) -> SeedSettings:
    return SeedSettings(
        **({"lifecycle": "swift", "proof_epochs": 2, "proof_patience": 2, "benefit_z": benefit_z} | changes)
    )


def two_seeds(lived):
    """s1 in the second epoch, s2 in the third, each between two steps."""
    return {4: lived.germinate("s1", "BP013"), 8: lived.germinate("s2", "BP013")}


def train(lived, *, seeds=None, **settings):
    return lived.train(**({"policy": "none", "seeds": seeds or swift()} | settings))


def learning(lived, seed: int, **settings):
    """A run whose loss falls in some epochs and not in others, so that some seeds prove themselves."""
    task = tiny(learning_rate=0.03)
    return train(lived, seeds=swift(ALWAYS), seed=seed, task=task, script=two_seeds(lived), **settings)


def weights(lived) -> dict[str, torch.Tensor]:
    """The host's and its optimiser's tensors at the end."""
    saved = latest_checkpoint(lived.whole(), lived.objects, step=99, sequence=10**6)
    flat, _, _ = load_checkpoint(lived.objects, saved.checkpoint_saved.ref)
    return {name: tensor for name, tensor in flat.tensors.items() if name.startswith(("host/", "optimizer/"))}


def check_same_network(lived, control) -> None:
    ours, theirs = weights(lived), weights(control)

    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (lived.result.test_loss, lived.result.val_accuracy) == (
        control.result.test_loss,
        control.result.val_accuracy,
    )
    assert (lived.result.status, lived.result.epochs) == ("completed", 10)


def check_replays(lived, **task) -> None:
    replayed = replay_run(lived.whole(), tiny(**task), objects=lived.objects, clock=REAL_CLOCK)
    assert replayed.diverged is None, str(replayed.diverged)


def rewinds(lived) -> list[tuple[str, int, int]]:
    return [(body.seed_id, body.from_step, body.to_step) for body in lived.log.bodies("rolled_back")]


@pytest.mark.parametrize(
    ("policy", "seed", "undone"),
    [
        ("none", 6, [("s1", 9, 3)]),
        ("random", 0, [("s2", 12, 6), ("s1", 21, 15)]),
        ("random", 6, [("s1", 9, 3), ("s2", 12, 6)]),
    ],
)
def test_a_run_whose_seeds_are_all_rewound_ends_as_its_control(lived, other, policy, seed, undone) -> None:
    """Germinated by a person between two steps, and by the policy's decisions; the second has another seed beside."""
    train(lived, policy=policy, seed=seed, pool=POOL, script=two_seeds(lived) if policy == "none" else {})
    train(other, seed=seed)

    check_same_network(lived, other)
    assert rewinds(lived) == undone
    assert {body.level for body in lived.log.bodies("rolled_back")} == {"rewind"}
    assert lived.result.flops["training"] > other.result.flops["training"]
    last = lived.log.bodies("epoch_completed")[-1]
    assert [seed.seed_id for seed in last.seeds if seed.closed] == sorted(seed_id for seed_id, _, _ in undone)
    assert set(lived.result.fates) == {seed_id for seed_id, _, _ in undone}
    check_replays(lived)


def test_a_rewind_counts_toward_nothing_that_protects_a_run(lived) -> None:
    train(lived, policy="random", seed=0, pool=POOL)

    assert lived.count("rolled_back") == 2
    for name in ("emergency_signal", "conservative_mode_changed", "breaker_changed"):
        assert lived.count(name) == 0, name
    assert not any(body.reason.startswith("rollback") for body in lived.log.bodies("learning_rate_changed"))
    last = max(place for place, event in enumerate(lived.log.events) if body_name(event) == "rolled_back")
    told = [line for _, line in RunView.of("run", lived.log.events[: last + 1]).decisions]
    assert told[-1].startswith("s1 rewound: its proof failed")
    assert not any("rolled back" in line for line in told)
    endings = {window.ended_as for body in lived.log.bodies("epoch_completed") for window in body.windows}
    assert "rewound" in endings


def test_a_widened_layer_is_narrow_again_after_a_rewind(lived, other) -> None:
    """A wider layer and a module behind the next; both go with the older one's proof."""
    script = {4: lived.germinate("s3", "BP051"), 8: lived.germinate("s2", "BP013")}
    train(lived, pool=("BP013", "BP051"), task=tiny(sites=WIDE), script=script)
    train(other, task=tiny(sites=WIDE))

    assert rewinds(lived) == [("s3", 9, 3)]
    check_same_network(lived, other)


def test_a_rewind_goes_back_behind_an_absorption_which_comes_again(lived) -> None:
    """s3 proved itself and became part of the host before s2, which germinated beside it, failed."""
    script = {4: lived.germinate("s3", "BP051"), 8: lived.germinate("s2", "BP013")}
    task = tiny(learning_rate=0.03, sites=WIDE)
    train(lived, seeds=swift(ALWAYS), seed=0, pool=("BP013", "BP051"), task=task, script=script)

    assert rewinds(lived) == [("s2", 12, 6)]
    absorbed = [(body.seed_id, body.units_before, body.units) for body in lived.log.bodies("seed_absorbed")]
    assert absorbed == [("s3", 6, 12), ("s3", 6, 12)]
    check_replays(lived, sites=WIDE)


def test_the_older_seeds_failure_takes_the_younger_along_which_may_be_tried_again(lived) -> None:
    script = {**two_seeds(lived), 12: lived.germinate("s2", "BP013"), 14: lived.germinate("s1", "BP013")}
    train(lived, script=script)
    applied = [body.seed_id for body in lived.log.bodies("command_applied")]

    assert applied == ["s1", "s2", "s2"]
    assert [seed_id for seed_id, _, _ in rewinds(lived)] == ["s1", "s2"]
    (refused,) = lived.log.bodies("command_rejected")
    assert (refused.reason, refused.seed_id) == ("seed_closed", "s1")
    assert "BP013 did not prove itself there" in refused.detail


def test_the_younger_seeds_failure_takes_it_alone(lived) -> None:
    learning(lived, seed=0)
    fates = lived.result.fates

    assert [seed_id for seed_id, _, _ in rewinds(lived)] == ["s2"]
    assert fates["s1"]["stage"] == "FOSSILIZED"
    assert fates["s2"] == {"stage": "DORMANT", "blueprint": "", "alpha": 0.0, "rewound": "BP013"}


def test_seeds_live_beside_each_other_and_fossilize_by_themselves(lived) -> None:
    learning(lived, seed=4)
    moves = [(m.seed_id, m.to_stage) for m in lived.log.bodies("seed_transitioned")]

    born = [moves.index((seed_id, SEED_LIFECYCLE_STAGE_PROBATIONARY)) for seed_id in ("s1", "s2")]
    proven = [moves.index((seed_id, SEED_LIFECYCLE_STAGE_FOSSILIZED)) for seed_id in ("s1", "s2")]
    assert max(born) < min(proven)
    assert rewinds(lived) == []
    assert lived.result.flops["side_pass"] == 0
    check_replays(lived)


def test_a_seed_that_is_not_at_full_strength_at_the_runs_end_is_rewound(lived, other) -> None:
    train(lived, script={28: lived.germinate("s1", "BP013")}, seeds=swift(ALWAYS, blend_epochs=3))
    train(other)

    (verdict,) = [body for body in lived.log.bodies("gate_evaluated") if not body.passed]
    assert verdict.reason.startswith("alpha is 0.")
    assert rewinds(lived) == [("s1", 30, 27)]
    check_same_network(lived, other)


def test_the_kept_state_outlives_pruning_until_the_proof_and_no_longer(lived) -> None:
    """Of the checkpoints one is kept; beside it stay those that a proof may ask for."""
    learning(lived, seed=4, keep_checkpoints=1)
    events = list(enumerate(lived.log.events))
    deleted = {event.checkpoint_pruned.ref: at for at, event in events if body_name(event) == "checkpoint_pruned"}
    proven = next(at for at, event in events if event.seed_transitioned.to_stage == SEED_LIFECYCLE_STAGE_FOSSILIZED)
    saved = lived.log.bodies("checkpoint_saved")

    assert len(saved) - len(deleted) == 1
    assert min(deleted[body.ref] for body in saved if body.step in (3, 6)) > proven
    assert min(deleted.values()) < proven  # others went on being deleted meanwhile


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("dies_at", [30, 45, 46, 47, 49])
def test_a_run_that_dies_around_a_rewind_comes_to_the_same_end(lived, other, dies_at, told) -> None:
    """Between germination and proof, at each fact of the rewind, and after it; nothing of memory is left."""
    undisturbed = train(other, policy="random", seed=6, pool=POOL, keep_checkpoints=1)
    train(lived, policy="random", seed=6, pool=POOL, keep_checkpoints=1, dies_at=dies_at, told=told)
    assert lived.result is None
    lived.resume()

    check_same_network(lived, undisturbed)
    assert rewinds(lived)[-2:] == rewinds(undisturbed)
    check_replays(lived)


@pytest.mark.parametrize("step", [5, 7])
def test_a_fork_between_insertion_and_proof_goes_back_behind_its_beginning(tmp_path, lived, other, step) -> None:
    """Of a parent that died before the proof; at step 7 it begins at a checkpoint in which the seed lives."""
    train(lived, seed=6, script=two_seeds(lived), dies_at=33)
    assert not rewinds(lived)
    other.fork(lived, step, "nothing")
    control = train(type(lived)(tmp_path / "control"), seed=6)

    assert rewinds(other) == [("s1", 9, 3)]
    assert other.result.test_loss == control.result.test_loss
    check_replays(other)


@pytest.mark.parametrize("step", [4, 20])
def test_a_fork_cannot_grow_where_a_proof_failed(lived, step) -> None:
    """Right after the rewind, before a packet tells of it, and later; before it, and elsewhere, it can."""
    train(lived, seed=6, script={4: lived.germinate("s1", "BP013")})
    assert rewinds(lived) == [("s1", 9, 3)]

    with pytest.raises(InvalidInput, match="s1 is closed there"):
        place_of(lived.whole(), step, read_change("germinate s1 BP013"))
    assert place_of(lived.whole(), step, read_change("germinate s2 BP013"))
    assert place_of(lived.whole(), 3, read_change("germinate s1 BP013"))


def test_a_fork_that_kasmina_would_refuse_is_refused_before_it_begins(lived, other) -> None:
    """A seed larger than its host, and a place that another seed holds; it was a failed run before."""
    wide = {"pool": ("BP009", "BP013", "BP051"), "task": tiny(sites=WIDE)}
    train(lived, **wide)
    train(other, seeds=SeedSettings(), script={4: other.germinate("s3", "BP051")}, **wide)

    with pytest.raises(InvalidInput, match=r"has 318 parameters there and its host 77; no seed of the swift"):
        place_of(lived.whole(), 7, read_change("germinate s1 BP009"))
    with pytest.raises(InvalidInput, match="s3 holds a seed in the same place there"):
        place_of(other.whole(), 7, read_change("germinate s1 BP013"))
    assert place_of(other.whole(), 7, read_change("germinate s2 BP013"))
    assert place_of(other.whole(), 3, read_change("germinate s1 BP009"))


@pytest.mark.parametrize(("rules", "judged"), [(2, ["s1", "s2"]), (1, ["s1"])])
def test_at_the_last_epoch_every_seed_is_judged_also_where_kept_states_are_gone(lived, rules, judged) -> None:
    """The first that fails is culled; before, the other stayed in the network without a proof."""

    def lose(run_id: str):
        for saved in lived.log.bodies("checkpoint_saved"):
            lived.objects.delete(saved.ref)
        return lived.set_rate(0.01)(run_id)

    seeds = swift(rules=rules, proof_epochs=20)
    train(lived, seeds=seeds, script=two_seeds(lived) | {28: lose}, fast_snapshot_bytes=0)

    assert [m.seed_id for m in lived.log.bodies("gate_evaluated") if not m.passed] == judged
    check_replays(lived)


def test_where_the_kept_state_is_gone_the_seed_is_culled_and_its_place_closed(lived) -> None:
    """As in a fork of a run that deleted it, because there the proof was over."""

    def lose(run_id: str):
        for saved in lived.log.bodies("checkpoint_saved"):
            lived.objects.delete(saved.ref)
        return lived.set_rate(0.01)(run_id)

    train(lived, script={4: lived.germinate("s1", "BP013"), 6: lose}, fast_snapshot_bytes=0)
    culls = [m.reason for m in lived.log.bodies("seed_transitioned") if m.to_stage == SEED_LIFECYCLE_STAGE_CULLED]

    assert culls == ["s1's proof failed, and the state before it is gone"]
    assert (rewinds(lived), lived.result.status) == ([], "completed")
    assert lived.log.bodies("epoch_completed")[-1].seeds[0].closed
    check_replays(lived)


def test_no_seed_is_larger_than_its_host(lived, other) -> None:
    script = {4: lived.germinate("s1", "BP009")}
    train(lived, script=script)
    other.train(script=script, policy="none")

    (refused,) = lived.log.bodies("command_rejected")
    assert refused.reason == "larger_than_host"
    assert "BP009 has 318 parameters and its host 77" in refused.detail
    assert (other.count("command_rejected"), other.count("command_applied")) == (0, 1)  # the careful profile takes it


@pytest.mark.parametrize(
    ("faults", "levels"),
    [([9], ["fast"]), ([10], ["fast", "rewind"]), ([9, 10], ["fast", "full"]), ([10, 11], ["fast", "full"])],
)
def test_a_failure_between_insertion_and_proof_leaves_the_proof_to_come(lived, faults, levels) -> None:
    """In its first epoch the failure undoes the seed; later its proof comes all the same, unless it is evicted."""
    train(lived, script={4: lived.germinate("s1", "BP013")}, faults=faults, rollback_rate_factor=1.0)

    assert [body.level for body in lived.log.bodies("rolled_back")] == levels
    assert lived.result.seeds["culled"] == (faults == [10, 11])
    assert lived.result.status == "completed"
