"""What the catalogue says and builds is what it always was: old logs, kernels and checkpoints go by it.

A kernel's guard holds the names, shapes and types of a module's tensors in their order, initialisation draws in that
order, and an event's id is derived from its content. A new blueprint adds a line here and changes none.
"""

from __future__ import annotations

import hashlib

import pytest

from esper.karn.blueprint import Blueprint, SiteShape, WidthShape
from esper.karn.catalogue import draft
from esper.karn.registration import registration
from esper.karn.table import CATALOGUE

SHAPES = {"vector": (4,), "image": (3, 5, 7), "token": (12, 16)}
PLACES = {
    "linear": WidthShape(units=6, incoming=(4,), outgoing=(3, 1), bias=True, running=(True,)),
    "conv": WidthShape(units=6, incoming=(2, 3, 3), outgoing=(5, 4), bias=False, group=3, running=(False,)),
}
HEADS = {
    "attention": WidthShape(units=6, incoming=(4,), outgoing=(5, 1), bias=True, group=3, sections=3),
    "no bias": WidthShape(units=4, incoming=(6,), outgoing=(6, 1), bias=False, group=2, sections=3),
}
FROZEN = {
    "BP001": "581c3db6c010",
    "BP002": "ea17f64075c4",
    "BP003": "b8271e95d072",
    "BP004": "e25cd6d33c7c",
    "BP005": "48b24fc19583",
    "BP006": "ef5dc20fd3d5",
    "BP007": "ade7bcc36525",
    "BP008": "3b8ba07f924c",
    "BP009": "8cafd17f7c0e",
    "BP010": "a599ef6e3c71",
    "BP011": "138dfaff4f60",
    "BP012": "372e56b889a9",
    "BP013": "ea858939df9b",
    "BP014": "da8b2ba329ec",
    "BP015": "cbda959427ab",
    "BP016": "37b30c58d852",
    "BP017": "b5b6b32e24d4",
    "BP018": "37ac0cebbc75",
    "BP019": "2303cf73662c",
    "BP020": "463baac648f2",
    "BP021": "47b9fec894e7",
    "BP022": "9cbed5e098c5",
    "BP023": "a15b2b8ee5e5",
    "BP024": "1bcae6bcdea2",
    "BP025": "da6af529f71c",
    "BP026": "8095426cdba6",
    "BP027": "30e516343dfd",
    "BP028": "a4ad7c9dd2e4",
    "BP029": "58f41ab8c16a",
    "BP030": "a960fa6a4c33",
    "BP031": "83f3496aebae",
    "BP032": "76e8476109a6",
    "BP033": "d453d9676171",
    "BP034": "fdbb8eec0f0f",
    "BP035": "29c3af6a69f4",
    "BP036": "edc0773c6316",
    "BP037": "bc90865a7a4c",
    "BP038": "85cdf48ae067",
    "BP039": "51bf85bb644e",
    "BP040": "de50c3c4c54c",
    "BP041": "6ae9fffa7d0e",
    "BP042": "9b4260fb134e",
    "BP043": "12028005f0f7",
    "BP044": "aff532f1e51e",
    "BP045": "aa09e91378b0",
    "BP046": "62aece762e25",
    "BP047": "fa4cddbed1d0",
    "BP048": "522ae2890b55",
    "BP049": "e2f61c382af1",
    "BP050": "9c509b553d27",
    "BP051": "3bb4edf8f6ef",
    "BP052": "ef6c9bf9d99c",
    "BP060": "deb82a583386",
    "BP061": "242ec76e7a4d",
    "BP062": "a8230c5777c5",
}
PLANNED = 50
"""Of the plan's blueprints, whose events were said first; each that is new adds its own behind them."""
EVENTS = "sha256:13bd92d981d96efc9050fbbd9689e5a27eb211c8b25a472db5ea5f65d1602f70"


def modules_digest(blueprint: Blueprint) -> str:
    """Of the names, shapes and types of all tensors, in order, at every kind of site and at the settings' ends."""
    digest = hashlib.sha256()
    wider = HEADS if blueprint.sections > 1 else PLACES
    places = wider if blueprint.widens else {kind: SiteShape(kind, SHAPES[kind]) for kind in blueprint.kinds}
    for kind, place in places.items():
        for which in ("minimum", "default", "maximum"):
            settings = {setting.name: getattr(setting, which) for setting in blueprint.settings}
            module = draft(blueprint, place, settings)
            tensors = [(name, tuple(t.shape), str(t.dtype)) for name, t in module.state_dict(keep_vars=True).items()]
            layers = [(name, type(layer).__name__) for name, layer in module.named_modules()]
            digest.update(repr((kind, which, tensors, layers, module.residual)).encode())
    return digest.hexdigest()[:12]


@pytest.mark.parametrize("blueprint_id", CATALOGUE)
def test_a_module_has_the_tensors_that_it_always_had(blueprint_id: str) -> None:
    assert modules_digest(CATALOGUE[blueprint_id]) == FROZEN[blueprint_id]


def test_the_events_of_the_catalogue_are_what_they_always_were() -> None:
    told = b"".join(event.SerializeToString(deterministic=True) for event in registration(5)[: 2 * PLANNED])

    assert f"sha256:{hashlib.sha256(told).hexdigest()}" == EVENTS
