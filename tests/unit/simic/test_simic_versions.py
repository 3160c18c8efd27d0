"""The life of a policy version, folded from its events: by Python's rule, and by the view of the archive."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from contracts.leyline.v1.event_pb2 import PolicyLoaded, PolicyRejected
from contracts.leyline.v1.leyline_pb2 import (
    FIELD_REPORT_OUTCOME_ABORTED,
    FIELD_REPORT_OUTCOME_NEUTRAL,
    FIELD_REPORT_OUTCOME_REGRESSION,
    FIELD_REPORT_OUTCOME_SUCCESS,
    FieldReport,
)
from esper.cli.app import dispatch
from esper.errors import InvalidInput
from esper.leyline.envelope import new_event
from esper.leyline.objects import ObjectStore
from esper.simic import publication, versions
from esper.simic.publication import NotValidated
from esper.simic.staged import Stage, decided
from esper.simic.versions import POLICY, Gate, fold, next_version
from esper.tamiyo import weights
from esper.tamiyo.network import make
from esper.tamiyo.staging import serves
from projections import open_history
from projections.archive_writer import Archive
from projections.run_queries import rows
from projections.testing import LogOfRecords

NOW = 1_800_000_000_000_000_000


class Said:
    """Gates that have spoken; what `publication` takes of a verdict."""

    def __init__(self, *, passed: bool) -> None:
        from esper.simic.gates import GATES, Verdict

        self.verdict = Verdict(
            tuple(
                Gate(name, passed or name != "performance", "+0.03" if passed else "not above 0", {"gain": 0.03})
                for name in GATES
            )
        )


class Story:
    """Versions as Simic publishes them, event after event; `folded` is what they come to."""

    def __init__(self, folder) -> None:
        self.objects = ObjectStore(folder / "objects")
        self.events = []
        self._now = itertools.count(NOW, 1_000_000_000)

    @property
    def folded(self) -> versions.Versions:
        return fold(self.events)

    def train(self, change="training", *, passed=True, offer=True) -> str:
        name = next_version(self.folded, change)
        content = weights.save(make(seed=len(self.events)), name, {"by": "a test"})
        trained = publication.trained(
            content,
            name,
            self.objects,
            experiences=48,
            metrics={"simic.training.loss": 0.5},
            provenance={"seed": "3"},
            now_ns=next(self._now),
        )
        judged = publication.judged(trained, Said(passed=passed).verdict, against_ref="", now_ns=next(self._now))
        self.events += [trained, *judged]
        if passed and offer:
            metadata = weights.metadata(content)
            self.events.append(publication.offered(trained, judged[0], metadata, now_ns=next(self._now)))
        return name

    def promote(self, name: str, share: float = 0.0) -> None:
        new = self.folded.find(name)
        self.events.append(
            publication.promotion(
                self.folded,
                new,
                by="ada",
                reason="better",
                share=share,
                architecture="tamiyo_gnn_v1",
                now_ns=next(self._now),
            )
        )

    def go_back(self, name: str | None = None) -> None:
        to = self.folded.find(name) if name else None
        self.events.append(
            publication.rollback(
                self.folded,
                to,
                by="bob",
                reason="it culls what pays",
                architecture="tamiyo_gnn_v1",
                now_ns=next(self._now),
            )
        )

    def load(self, name: str, process: str) -> None:
        self._alone(PolicyLoaded(policy_id=POLICY, policy_version=name, process=process))

    def refuse(self, name: str, process: str) -> None:
        self._alone(
            PolicyRejected(
                policy_id=POLICY,
                policy_version=name,
                process=process,
                reason="shape_mismatch",
                detail="wide",
                weights_ref=self.folded.find(name).weights_ref,
            )
        )

    def _alone(self, body) -> None:
        event_id = len(self.events).to_bytes(16, "big")
        self.events.append(
            new_event(body, event_id=event_id, run_id="", producer="decider", recorded_at_ns=next(self._now))
        )


@pytest.fixture
def story(tmp_path) -> Story:
    return Story(tmp_path)


@pytest.fixture
def whole(story) -> Story:
    """Four versions: one live, then a better one, which is left again; one rejected; one staged."""
    for name in (story.train(), story.train()):
        story.promote(name)
        story.load(name, "decider")
    story.train(passed=False)
    story.go_back()
    story.load("1.0.0", "decider")
    story.train("adaptation")
    story.promote("1.2.1", share=0.1)
    story.refuse("1.2.1", "decider-2")
    return story


@pytest.mark.requirement("R-SIM-39")
def test_versions_live_as_their_events_say(whole):
    found = whole.folded

    assert {name: each.state for name, each in found.by_name.items()} == {
        "1.0.0": "live",
        "1.1.0": "retired",
        "1.2.0": "rejected",
        "1.2.1": "staged",
    }
    assert (found.live, found.staged, found.history) == ("1.0.0", "1.2.1", ("1.0.0", "1.1.0", "1.0.0"))
    assert (found.rollbacks, found.by_name["1.1.0"].rollbacks, found.by_name["1.0.0"].promotions) == (1, 1, 2)
    assert (found.by_name["1.0.0"].loaded_by, found.by_name["1.1.0"].loaded_by) == (("decider",), ())
    assert found.by_name["1.2.1"].refused_by == {"decider-2": "wide"}
    one = found.by_name["1.0.0"]
    assert (one.experiences, one.training, one.provenance) == (48, {"simic.training.loss": 0.5}, {"seed": "3"})
    assert (one.validation["simic.validation.pass"], one.validation["performance.gain"]) == (1.0, 0.03)
    assert [gate.passed for gate in one.gates] == [True] * 6


@pytest.mark.requirement("R-SIM-39")
def test_repetitions_and_what_claims_a_name_that_is_given_change_nothing(whole):
    again = [*whole.events, *whole.events]
    thief = publication.trained(b"others", "1.0.0", whole.objects, experiences=1, metrics={}, provenance={}, now_ns=NOW)
    promoted = publication.promotion(
        whole.folded,
        versions.Version("1.0.0", thief.policy_trained.weights_ref, "passed", validated_id=b"v"),
        by="eve",
        reason="",
        architecture="",
        now_ns=NOW,
    )

    assert fold(again) == whole.folded
    stolen = fold([*whole.events, thief, promoted])
    assert (stolen.live, stolen.staged, stolen.by_name) == (whole.folded.live, "1.2.1", whole.folded.by_name)


@pytest.mark.requirement("R-SIM-28", "R-SIM-35")
def test_nothing_is_published_that_has_not_passed_its_gates(story):
    name = story.train(passed=False)
    trained, validated, rejected = story.events

    assert validated.policy_validated.metrics["simic.validation.pass"] == 0.0
    assert (rejected.policy_rejected.reason, rejected.policy_rejected.detail) == (
        "performance",
        "performance: not above 0",
    )
    with pytest.raises(NotValidated, match=r"not above 0"):
        publication.offered(trained, validated, {"registries": {}, "architecture": "a"}, now_ns=NOW)
    with pytest.raises(NotValidated, match=r"1.0.0 has not passed its gates: performance: not above 0"):
        story.promote(name)
    story.events = [trained]
    with pytest.raises(NotValidated, match="its gates were not asked"):
        story.promote(name)
    other = story.train()
    with pytest.raises(NotValidated):  # passed, but other weights
        publication.offered(trained, story.events[2], {"registries": {}, "architecture": "a"}, now_ns=NOW)
    story.promote(other)
    with pytest.raises(InvalidInput, match="is live already"):
        story.promote(other)


@pytest.mark.requirement("R-SIM-37")
def test_an_update_says_what_its_weights_are_and_need(story):
    name = story.train()
    update = story.events[-1].policy_update
    content = story.objects.get(update.payload_ref)

    assert update.tamiyo_policy_version == name == "1.0.0"
    assert weights.load(content).ref == update.payload_ref
    assert dict(update.registry_digests) == weights.metadata(content)["registries"]
    assert (update.architecture, update.issued_at.seconds > 0) == ("tamiyo_gnn_v1", True)
    assert [event.causation_id for event in story.events[1:]] == [event.event_id for event in story.events[:-1]]


@pytest.mark.requirement("R-SIM-39")
def test_one_goes_back_only_to_what_was_live(whole):
    with pytest.raises(InvalidInput, match=r"never live; one can go back to 1.0.0, 1.1.0"):
        whole.go_back("1.2.0")
    with pytest.raises(InvalidInput, match=r"there is no policy version '9.9.9'; there are 1.0.0, 1.1.0"):
        whole.go_back("9.9.9")
    whole.go_back()  # a staged one is left for the live one
    assert (whole.folded.live, whole.folded.staged, whole.folded.rollbacks) == ("1.0.0", "", 2)
    whole.go_back("1.1.0")
    assert whole.folded.live == "1.1.0"


def test_nothing_to_go_back_to_is_said(story):
    with pytest.raises(InvalidInput, match="no policy is live"):
        story.go_back()
    story.promote(story.train())
    with pytest.raises(InvalidInput, match=r"no version was live before 1.0.0"):
        story.go_back()


def reports(version: str, since_ns: int, share: float, well: int, badly: int) -> list:
    """Reports on so many runs of a staged version that went well and badly, and all that must not count."""
    served = (f"run{number}" for number in itertools.count() if serves(f"run{number}", version, share))
    others = (f"run{number}" for number in itertools.count() if not serves(f"run{number}", version, share))
    made = []

    def tell(run_id, outcome, *, by=version, notes="", at_ns=since_ns) -> None:
        body = FieldReport(tamiyo_policy_version=by, training_run_id=run_id, outcome=outcome, notes=notes)
        event_id = len(made).to_bytes(16, "big")
        made.append(new_event(body, event_id=event_id, run_id=run_id, producer="tamiyo", recorded_at_ns=at_ns))

    for number in range(well + badly):
        run_id = next(served)
        tell(run_id, FIELD_REPORT_OUTCOME_SUCCESS)
        for _ in range(1 if number < well else 2):
            tell(run_id, FIELD_REPORT_OUTCOME_REGRESSION)
        tell(run_id, FIELD_REPORT_OUTCOME_NEUTRAL, notes="run_ended")
    tell(next(served), FIELD_REPORT_OUTCOME_ABORTED)  # it has not ended
    tell(next(served), FIELD_REPORT_OUTCOME_ABORTED, notes="run_ended", at_ns=since_ns - 1)
    tell(next(served), FIELD_REPORT_OUTCOME_ABORTED, notes="run_ended", by="1.0.0")
    tell(next(others), FIELD_REPORT_OUTCOME_ABORTED, notes="run_ended")
    return made


@pytest.mark.requirement("R-SIM-40")
def test_a_staged_version_serves_its_share_of_runs(whole):
    runs = [f"run{number}" for number in range(4000)]
    served = [whole.folded.serving(run) for run in runs]

    assert 0.08 < served.count("1.2.1") / len(runs) < 0.12
    assert set(served) == {"1.0.0", "1.2.1"}
    assert all(serves(run, "1.2.1", 0.1) is (version == "1.2.1") for run, version in zip(runs, served, strict=True))
    assert serves("run0", "1.2.1", 0.0)  # all runs


@pytest.mark.requirement("R-SIM-40")
@pytest.mark.parametrize(
    ("well", "badly", "verdict", "live"),
    [(0, 19, "waits", "1.0.0"), (15, 5, "goes back", "1.0.0"), (16, 4, "stays", "1.2.1")],
)
def test_a_staged_version_goes_back_or_decides_for_all_by_what_its_runs_reported(whole, well, badly, verdict, live):
    stage = Stage.of(whole.folded)
    told = reports("1.2.1", stage.since_ns, 0.1, well, badly)
    for event in random.Random(well).sample(told, len(told)) + told[:7]:  # in any order, and some of them again
        stage.take(event)
    assert (stage.successes, stage.runs, stage.verdict) == (well, well + badly, verdict)

    said = decided(stage, whole.events, whole.folded, NOW)
    assert (said is None) is (verdict == "waits")
    after = fold([*whole.events, *([] if said is None else [said, said])])
    assert (after.live, after.staged) == (live, "1.2.1" if verdict == "waits" else "")
    if said is not None:
        assert after.by_name["1.2.1"].rollbacks == (verdict == "goes back")
        assert (
            after.by_name[live].reason == f"{well} of 20 staged runs that ended did well; 80% of at least 20 are asked"
        )
        assert said.policy_promoted.architecture == "tamiyo_gnn_v1"
        assert decided(stage, whole.events, after, NOW) is None  # somebody has spoken


def test_what_nobody_stages_any_more_is_not_judged(whole):
    stage = Stage.of(whole.folded)
    for event in reports("1.2.1", stage.since_ns, 0.1, 0, 20):
        stage.take(event)
    whole.promote("1.1.0")
    whole.promote("1.2.1", share=0.1)

    assert decided(stage, whole.events, whole.folded, NOW) is None  # it is staged anew
    whole.go_back()
    assert decided(stage, whole.events, whole.folded, NOW) is None
    assert Stage.of(whole.folded) is None


def test_names_follow_each_other_by_what_changed(story):
    assert next_version(story.folded, "training") == "1.0.0"
    names = [story.train(change) for change in ("training", "training", "adaptation", "architecture", "training")]
    assert names == ["1.0.0", "1.1.0", "1.1.1", "2.0.0", "2.1.0"]
    assert [story.folded.generation(name) for name in names] == [0] * 5


@pytest.fixture
def data_dir(whole, tmp_path):
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(whole.events))
    return tmp_path


def test_the_view_of_the_archive_says_what_the_fold_says(whole, data_dir):
    with open_history(data_dir / "archive") as history:
        found = rows(history, "SELECT * FROM policies ORDER BY policy_version")

    for row, version in zip(found, whole.folded.by_name.values(), strict=True):
        assert (row["policy_version"], row["state"], row["weights_ref"]) == (
            version.version,
            version.state,
            version.weights_ref,
        )
        assert (row["promotions"], row["rollbacks"], tuple(row["loaded_by"])) == (
            version.promotions,
            version.rollbacks,
            version.loaded_by,
        )
        assert (row["reason"] or "", row["refusals"]) == (version.reason, len(version.refused_by))
    assert [row["share"] is not None for row in found] == [False, False, False, True]


def test_they_are_listed_and_shown(whole, data_dir, capsys):
    def ask(*arguments: str, code: int = 0) -> str:
        assert dispatch(["policy", *arguments, "--data-dir", str(data_dir)]) == code
        said = capsys.readouterr()
        return said.out + said.err

    listed = json.loads(ask("list", "--json"))
    assert [each["version"] for each in listed] == ["1.2.1", "1.2.0", "1.1.0", "1.0.0"]
    assert [each["rollbacks"] for each in listed] == [0, 0, 1, 0]
    shown = json.loads(ask("show", "live", "--json"))
    assert (shown["version"], shown["state"], len(shown["gates"])) == ("1.0.0", "live", 6)
    assert shown["staged"] is None
    assert "0 of 0 staged runs that ended did well" in ask("show", "staged")
    text = ask("show", "1.2.0")
    for word in ("rejected", "performance", "not above 0", "simic.training.loss"):
        assert word in text
    assert "1.1.0" in ask("list")
    assert "there is no policy version '7'" in ask("show", "7", code=2)
    assert "no decision to make again" in ask("diff", "1.0.0", "heuristic")
