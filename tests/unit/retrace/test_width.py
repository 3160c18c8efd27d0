"""A run whose host became wider is lived again, resumed, rolled back and forked across the absorption, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from esper.cli.events import headline
from esper.cli.run_view import RunView
from esper.errors import InvalidInput
from esper.kasmina.lifecycle import name
from esper.record import replay
from esper.testing import REAL_CLOCK
from esper.tolaria.fork_change import place_of, read_change
from esper.tolaria.replay import replay_run
from esper.tolaria.tasks import Site
from tests.unit.kasmina.test_width_heads import QKV, UP, Tokens
from tests.unit.retrace.lives import QUICK, tiny

SITES = (
    *(Site("1", "vector"), Site("4", "vector")),
    *(Site("0", "vector", consumer="3"), Site("3", "vector", consumer="5")),
)
"""s1 and s2 grow behind the layers, s3 and s4 widen them; what s3 opens when it is absorbed is s5."""
SEEDS = replace(QUICK, probation_patience=9, benefit_z=0.0)
ABSORBED = 16
"""The step before which s3 is absorbed, in the middle of an epoch."""


def wide(**changes):
    return tiny(sites=SITES, **changes)


def attending(**changes):
    """A Transformer block instead of the layers: s3 adds heads to it, s4 widens its GELU layer."""
    sites = (Site("embed", "token"), Site("block", "token"), QKV, UP)
    return tiny(sites=sites, make_host=Tokens, **changes)


def story(lived) -> dict[int, object]:
    """s3 is absorbed, that is undone by a rollback, done again; s5 grows at the wider place beside s4."""
    return {
        1: lived.germinate("s3", "BP051"),
        4: lived.germinate("s4", "BP051"),
        ABSORBED: lived.fossilize("s3"),
        ABSORBED + 1: lived.go_back("fast"),
        ABSORBED + 3: (lived.fossilize("s3"), lived.germinate("s5", "BP051")),
    }


def live(lived, **how):
    return lived.train(story(lived), seed=2, policy="none", seeds=SEEDS, task=wide(), **how)


def test_it_replays_and_tells_what_was_absorbed(lived):
    live(lived)

    assert not lived.log.bodies("command_rejected")
    first, again = lived.log.bodies("seed_absorbed")
    assert (first.seed_id, first.units_before, first.units, first.opened) == ("s3", 6, 12, "s5")
    assert first == again
    (back,) = lived.log.bodies("rolled_back")
    assert (back.to_step, back.state_digest in {each.root for each in lived.log.bodies("state_digested")}) == (15, True)
    last = lived.log.bodies("epoch_completed")[-1]
    assert [site.seed_id for site in last.sites] == ["s1", "s2", "s3", "s4", "s5"]
    assert last.params == lived.result.params_final > last.params_host == lived.result.params_host
    changes = [(each.change, each.group) for each in lived.log.bodies("optimizer_changed")]
    assert changes.count(("absorbed", "host")) == 2
    assert changes.count(("group_removed", "s3")) == 2
    view, told = RunView("run"), []
    for event in lived.log.events:
        view.apply(event)
        if event.HasField("seed_absorbed"):
            told.append(headline(event))
    assert {seed.seed_id: seed.stage for seed in view.seeds.values()}["s5"] == "PROBATIONARY"
    assert told[0] == "s3 is part of the host: 0 has 12 units instead of 6, 60 parameters more; s5 opens there"
    state = replay(event for event in lived.log.events if event.sequence)
    assert (state.problem, name(state.seeds["s5"].stage), state.seeds["s5"].site) == (None, "PROBATIONARY", "0")
    replayed = lived.replay(task=wide())
    assert replayed.diverged is None, str(replayed.diverged)


@pytest.mark.parametrize("after", ["seed_absorbed", "checkpoint_saved", "state_digested"])
def test_a_run_that_died_after_an_absorption_goes_on_as_if_nothing_had_been(lived, other, after):
    live(other)
    events = other.log.events
    asked = max(n for n, event in enumerate(events) if event.HasField("command_applied"))
    absorbed = max(n for n, event in enumerate(events) if event.HasField("seed_absorbed"))
    later = (n for n, event in enumerate(events) if n > asked and event.HasField(after))
    dies_at = absorbed if after == "seed_absorbed" else next(later)
    live(lived, dies_at=dies_at + 1)
    if after == "seed_absorbed":  # what a person wanted after that is lost with the process
        assert lived.resume(task=wide()).log.bodies("run_finished")[-1].status == "completed"
    else:
        assert lived.resume(task=wide()).digests() == other.digests()

    assert lived.replay(task=wide()).diverged is None


def check_replays(child, task=None) -> None:
    replayed = replay_run(child.whole(), task or wide(), objects=child.objects, clock=REAL_CLOCK)
    assert replayed.diverged is None, str(replayed.diverged)


def test_a_fork_leaves_it_after_the_absorption_and_grows_at_the_slot_that_opened(lived, other):
    live(lived)
    step = next(event.global_step for event in reversed(lived.log.events) if event.HasField("seed_absorbed"))
    other.fork(lived, step + 1, "cull s5", task=wide())

    assert [name(each.to_stage) for each in other.log.bodies("seed_transitioned")][:2] == ["CULLED", "EMBARGOED"]
    check_replays(other)


def test_a_fork_may_name_the_slot_that_opened_only_where_it_is_there(lived):
    live(lived)
    whole = lived.whole()
    with pytest.raises(InvalidInput, match="there is no seed 's5'"):
        place_of(whole, 12, read_change("germinate s5 BP051"))
    with pytest.raises(InvalidInput, match="BP009 cannot grow there; BP051 can"):
        place_of(whole, 0, read_change("germinate s3 BP009"))


def heads(lived) -> dict[int, object]:
    """More heads, a wider GELU layer, more heads again; the last of these is undone by a rollback and done again."""
    return {
        1: lived.germinate("s3", "BP052"),
        4: lived.germinate("s4", "BP051"),
        ABSORBED: lived.germinate("s5", "BP052"),
        ABSORBED + 1: lived.go_back("fast"),
        ABSORBED + 3: lived.germinate("s5", "BP052"),
    }


ATTENDING = {"seed": 2, "policy": "none", "seeds": replace(QUICK, lifecycle="direct")}


def test_a_run_whose_attention_has_more_heads_does_all_of_that_too(lived, other):
    other.train(heads(other), task=attending(), **ATTENDING)
    found = [(each.seed_id, each.units_before, each.units) for each in other.log.bodies("seed_absorbed")]
    assert found == [("s3", 6, 12), ("s4", 8, 16), ("s5", 12, 24), ("s5", 12, 24)]
    assert len(other.log.bodies("rolled_back")) == 1
    assert other.replay(task=attending()).diverged is None

    events = other.log.events
    absorbed = max(n for n, event in enumerate(events) if event.HasField("seed_absorbed"))
    dies_at = next(n for n, event in enumerate(events) if n > absorbed and event.HasField("state_digested"))
    lived.train(heads(lived), dies_at=dies_at + 1, task=attending(), **ATTENDING)
    assert lived.resume(task=attending()).digests() == other.digests()
    assert lived.replay(task=attending()).diverged is None


def test_a_fork_of_it_grows_more_heads_at_the_slot_that_opened(lived, other):
    lived.train({1: lived.germinate("s3", "BP052")}, task=attending(), **ATTENDING)
    other.fork(lived, ABSORBED, "germinate s5 BP052", task=attending())

    (attached,) = other.log.bodies("kernel_attached")
    assert (attached.seed_id, attached.module_parameters) == ("s5", 12 * (3 * (6 + 1) + 6))
    check_replays(other, attending())


def test_only_the_axes_that_are_asked_for_are_offered(lived):
    lived.train(seed=2, policy="none", axes=("width",), task=wide(), epochs=1)
    (started,) = lived.log.bodies("run_started")

    assert [(site.seed_id, site.site, site.width.consumer) for site in started.sites] == [
        ("s1", "0", "3"),
        ("s2", "3", "5"),
    ]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_direct_insertion_is_absorbed_at_once_and_replays(lived, optimizer):
    script = {2: lived.germinate("s3", "BP051"), 7: lived.germinate("s5", "BP051")}
    seeds = replace(QUICK, lifecycle="direct")
    lived.train(script, seed=2, policy="none", seeds=seeds, task=wide(), epochs=4, optimizer=optimizer)

    assert [each.units for each in lived.log.bodies("seed_absorbed")] == [12, 24]
    assert lived.replay(task=wide()).diverged is None


def test_a_step_costs_what_the_wide_layer_costs_as_soon_as_the_seed_is_mixed_in(lived):
    """A ramp begins with a step at alpha 0, which computes the narrow layer and does not stand for the rest of it."""
    seeds = replace(SEEDS, blend_epochs=2)
    lived.train({4: lived.germinate("s3", "BP051")}, seed=2, policy="none", seeds=seeds, task=wide())
    spent = [body.flops_training for body in lived.log.bodies("epoch_completed")]
    steps = [(after - before) / 3 for before, after in pairwise(spent)]
    alphas = [next(s.alpha for s in body.seeds if s.seed_id == "s3") for body in lived.log.bodies("epoch_completed")]
    ramp = alphas.index(next(alpha for alpha in alphas if alpha))

    assert steps[ramp - 1] == (steps[0] + 2 * steps[-1]) / 3  # its first step was the narrow one
    assert steps[ramp] == steps[-1] > steps[0]
    assert lived.replay(task=wide()).diverged is None


def test_so_does_the_evidence(lived):
    """The ramp begins with the evidence of the second epoch at alpha 0, that of the third has the wide layer in it."""
    spent = [0.0]
    for epochs in (1, 2, 3):
        seeds = replace(SEEDS, blend_epochs=2)
        script = {4: lived.germinate("s3", "BP051")}
        lived.train(script, seed=2, policy="heuristic", pool=("BP051",), seeds=seeds, task=wide(), epochs=epochs)
        spent.append(lived.result.flops["evidence"])
    _, second, third = (after - before for before, after in pairwise(spent))

    assert third > second
