"""`esper policy` with all processes: a version is promoted and left again, as signed events of one log."""

from __future__ import annotations

from esper.cli.policy_log import publish
from esper.leyline.objects import ObjectStore
from esper.simic import publication
from esper.simic.gates import GATES, Verdict
from esper.simic.versions import Gate
from esper.tamiyo import weights
from esper.tamiyo.network import make


def learnt(objects: ObjectStore, name: str, seed: int) -> list:
    """The events of a round of learning whose gates all passed."""
    content = weights.save(make(seed=seed), name)
    trained = publication.trained(
        content, name, objects, experiences=9, metrics={"simic.training.loss": 0.5}, provenance={}, now_ns=seed
    )
    verdict = Verdict(tuple(Gate(gate, True, "as the test says") for gate in GATES))
    return [trained, *publication.judged(trained, verdict, against_ref="", now_ns=seed)]


def test_a_policy_is_promoted_and_left_again(esper):
    objects = ObjectStore(esper.data_dir / "objects")
    rounds = [*learnt(objects, "1.0.0", 1), *learnt(objects, "1.1.0", 2)]
    publish(esper.data_dir, lambda _versions: rounds)

    first = esper.json("policy", "promote", "1.0.0", "--by", "ada", "--why", "half a point on digits")
    publish(
        esper.data_dir,
        lambda versions: [
            publication.promotion(
                versions, versions.find("1.1.0"), by="ada", reason="more", architecture="tamiyo_gnn_v1", now_ns=3
            )
        ],
    )
    back = esper.json("policy", "rollback", "--by", "bob", "--why", "it culls what pays")

    assert (first["policy_version"], first["rolled_back_from"], first["share"]) == ("1.0.0", "", 1.0)
    assert (back["policy_version"], back["rolled_back_from"]) == ("1.0.0", "1.1.0")
    listed = {each["version"]: (each["state"], each["rollbacks"]) for each in esper.json("policy", "list")}
    assert listed == {"1.0.0": ("live", 0), "1.1.0": ("retired", 1)}
    assert esper.processes() == []
