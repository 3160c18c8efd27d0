"""`esper policy` with all processes: a version is promoted and left again, as signed events of one log."""

from __future__ import annotations

from esper.cli.policy_log import publish
from esper.leyline.objects import ObjectStore
from esper.simic import publication
from esper.simic.gates import GATES, Verdict
from esper.simic.versions import Gate, next_version
from esper.tamiyo import weights
from esper.tamiyo.network import make


def learnt(objects: ObjectStore, *, seed: int, passed: bool):
    """The events of a round of learning that ended so."""

    def events(versions):
        name = next_version(versions, "training")
        content = weights.save(make(seed=seed), name)
        trained = publication.trained(
            content, name, objects, experiences=9, metrics={"simic.training.loss": 0.5}, provenance={}, now_ns=seed
        )
        verdict = Verdict(tuple(Gate(gate, passed, "as the test says") for gate in GATES))
        return [trained, *publication.judged(trained, verdict, against_ref="", now_ns=seed)]

    return events


def test_a_policy_is_promoted_and_left_again(esper):
    objects = ObjectStore(esper.data_dir / "objects")
    for seed, passed in ((1, True), (2, True), (3, False)):
        publish(esper.data_dir, learnt(objects, seed=seed, passed=passed))
    who = ("--by", "ada", "--why", "half a point on digits")

    first = esper.json("policy", "promote", "1.0.0", *who)
    esper.json("policy", "promote", "1.1.0", *who)
    refused = esper("policy", "promote", "1.2.0", *who, code=2)
    back = esper.json("policy", "rollback", "--by", "bob", "--why", "it culls what pays")
    nobody = esper("policy", "rollback", "--by", " ", "--why", "?", code=2)

    assert (first["policy_version"], first["rolled_back_from"]) == ("1.0.0", "")
    assert (back["policy_version"], back["rolled_back_from"]) == ("1.0.0", "1.1.0")
    assert "policy 1.2.0 has not passed its gates: performance: as the test says" in refused.stderr
    assert "give --by and --why" in nobody.stderr
    listed = {each["version"]: (each["state"], each["rollbacks"]) for each in esper.json("policy", "list")}
    assert listed == {"1.0.0": ("live", 0), "1.1.0": ("retired", 1), "1.2.0": ("rejected", 0)}
    assert esper.processes() == []
