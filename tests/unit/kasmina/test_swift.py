"""The `swift` profile of a seed's life: in at once, then proven. What a failed proof does is the trainer's part."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.errors import InvalidInput
from esper.kasmina import lifecycle
from esper.kasmina.commands import CommandRefused
from esper.kasmina.settings import SeedSettings

ALWAYS, NEVER = 0.0, 1e6


class Small(nn.Module):
    """A residual seed that is smaller than the host."""

    residual = True

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(6, 3), nn.Linear(3, 6)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.up(torch.tanh(self.down(h)))


@pytest.fixture
def swift(make_lab):
    def make(benefit_z: float = ALWAYS, **settings):
        values = {"proof_epochs": 2, "proof_patience": 2, "benefit_z": benefit_z} | settings
        lab = make_lab(SeedSettings(lifecycle="swift", **values), seed=1)
        lab.blueprints["injected"] = Small
        return lab

    return make


def test_a_seed_is_mixed_in_after_its_first_step_and_learns_there(swift) -> None:
    lab = swift()
    lab.epoch()
    before = lab.probe().per_sample
    lab.germinate("injected")
    lab.step()

    assert lab.moves() == ["GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY"]
    assert lab.gates() == [("G0_SANITY", True)]
    assert lab.observe().alpha == 1.0
    assert list(lab.held) == ["s1"]  # nothing is frozen
    assert not torch.equal(lab.probe().per_sample, before)  # of the host's own step; the seed gives nothing yet
    assert lab.kasmina.side_pass(lambda: nn.functional.cross_entropy(lab.host(lab.inputs[:4]), lab.targets[:4])) is None


def test_it_fossilizes_by_itself_and_no_command_makes_it(swift) -> None:
    lab = swift()
    lab.epoch()
    lab.germinate("injected")
    lab.epoch()
    assert not lab.observe().gate_ready
    with pytest.raises(CommandRefused, match="dwell_not_over: s1 fossilizes by itself, after 2 epochs' proof"):
        lab.kasmina.apply(lab.command("FOSSILIZE"))
    lab.epoch()

    assert lab.gates()[-1] == ("G4_SYSTEM_IMPACT", True)
    assert lab.stage() == lifecycle.FOSSILIZED
    assert lab.kasmina.disproved == ""


def test_a_proof_compares_the_same_samples_with_before_germination(swift) -> None:
    """It fails by one figure, the seed stays where it is, and the caller is told whose it was."""
    lab = swift(NEVER)
    lab.epoch()
    before = lab.kasmina.probe_loss.mean
    lab.germinate("injected")
    lab.epoch()
    lab.epoch()
    (verdict,) = [fact for fact in lab.facts if getattr(fact, "gate", 0) == lifecycle.G4]
    figures = {each.name: each.value for each in verdict.measurements}

    assert figures["loss_fall"] == pytest.approx(before - lab.kasmina.probe_loss.mean)
    assert verdict.reason.startswith("loss_fall is ")
    assert (lab.kasmina.disproved, lab.stage()) == ("s1", lifecycle.PROBATIONARY)
    observed = lab.observe()
    assert observed.change == pytest.approx(-figures["loss_fall"], rel=1e-5)
    assert not observed.HasField("contribution")


def test_a_proof_has_patience_and_none_by_the_rules_of_before(swift) -> None:
    """A seed that never proves itself is waited for; at the run's last epoch it is not."""

    def ends(**settings) -> int:
        lab = swift(NEVER, **settings)
        lab.epoch()
        lab.germinate("injected")
        epochs = 0
        while not lab.kasmina.disproved:
            lab.epoch()
            epochs += 1
        return epochs

    assert [ends(), ends(proof_patience=4), ends(proof_patience=4, rules=1)] == [2, 4, 2]
    lab = swift(NEVER, proof_patience=9)
    lab.epoch()
    lab.germinate("injected")
    lab.step()
    lab.kasmina.end_epoch(lab.probe, last=True)
    assert lab.kasmina.disproved == "s1"


def test_the_ramp_may_take_its_time(swift) -> None:
    lab = swift(blend_epochs=1)
    lab.epoch()
    lab.germinate("injected")
    lab.step()
    assert lab.stage() == lifecycle.BLENDING
    for number in range(lab.steps):
        lab.step(number)
    assert lab.stage() == lifecycle.PROBATIONARY


def test_what_is_not_at_full_strength_at_the_end_has_not_proven_itself(swift) -> None:
    lab = swift(blend_epochs=3)
    lab.epoch()
    lab.germinate("injected")
    lab.step()
    facts = lab.kasmina.end_epoch(lab.probe, last=True)

    assert facts[-1].reason.startswith("alpha is 0")
    assert lab.kasmina.disproved == "s1"


def test_nothing_grows_in_a_closed_place_and_a_saved_state_keeps_it_closed(swift) -> None:
    lab = swift()
    lab.kasmina.close("s1", "BP009", "its proof failed")
    saved = lab.kasmina.state_dict()
    again = swift()
    again.kasmina.load_state_dict(saved)

    assert [o.closed for o in again.kasmina.observations()] == [True, False]
    with pytest.raises(CommandRefused, match="seed_closed: s1 is closed: BP009 did not prove itself there"):
        again.germinate("injected")
    again.germinate("injected", "s2")
    assert swift().kasmina.state_dict()["scalars"]["slots"]["s1"].keys().isdisjoint({"closed"})


def test_no_seed_is_larger_than_its_host_and_only_here(swift, make_lab) -> None:
    with pytest.raises(CommandRefused, match=r"larger_than_host: residual has 186 parameters and its host 86"):
        swift().germinate("residual")
    assert make_lab().germinate("residual")


@pytest.mark.parametrize(("lifecycle_name", "epochs"), [("careful", 3), ("full", 3), ("direct", 3), ("swift", 0)])
def test_the_ramp_that_a_profile_has_where_nothing_is_said(lifecycle_name, epochs) -> None:
    assert SeedSettings(lifecycle=lifecycle_name).blend_epochs == epochs
    assert SeedSettings(lifecycle=lifecycle_name, blend_epochs=2).blend_epochs == 2


def test_a_profile_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(InvalidInput, match=r"lifecycle is 'slow', .* choose careful, swift, direct, full"):
        SeedSettings(lifecycle="slow")
