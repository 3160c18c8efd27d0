"""A policy's weights as one safetensors file: tensors by name, and readable metadata. Nothing is ever unpickled.

The metadata says what the file is for: architecture, settings, the digests of the registries, the names of all
features, and whatever its maker tells of where it came from. `load` compares all of it with what this Esper builds and
names the first thing that is otherwise, by the words of R-TAM-53.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from esper.errors import InvalidInput
from esper.tamiyo import features, graph, registries
from esper.tamiyo.actions import EVERYTHING, SEEDS_ONLY
from esper.tamiyo.network import ARCHITECTURE, Settings, TamiyoNet
from esper.tamiyo.risk_engine import VERSION

FORMAT: Final = 1
MOST_BYTES: Final = 64 * 1024**2
"""No policy of ours is a tenth as large."""
_METADATA: Final = "policy"


class Refused(InvalidInput):
    """Weights that are not loaded; `reason` is one of the words of R-TAM-53, the message says what is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Loaded:
    """Weights that were read: the network in eval mode, its version, the file's SHA-256, what its maker told.

    `action_set` is what it chooses from, `risk_engine` the version that binds it; a file from before it said so has the
    first of both.
    """

    network: TamiyoNet
    version: str
    digest: bytes
    provenance: Mapping[str, Any]
    action_set: int = SEEDS_ONLY
    risk_engine: int = 1

    @property
    def ref(self) -> str:
        """The file's place in an object store."""
        return f"sha256:{self.digest.hex()}"


def manifest(settings: Settings, version: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of weights for these settings."""
    return {
        "format": FORMAT,
        "architecture": ARCHITECTURE,
        "version": version,
        "settings": settings.to_dict(),
        "registries": registries.digests(),
        "features": {**features.NODES, "action": features.ACTION, "edge": features.EDGE},
        "relations": [list(relation) for relation in graph.RELATIONS],
        "action_set": EVERYTHING,
        "risk_engine": VERSION,
        "provenance": dict(provenance),
    }


def save(network: TamiyoNet, version: str, provenance: Mapping[str, Any] | None = None) -> bytes:
    """The file's bytes: the same weights, version and provenance give the same bytes.

    `provenance` is plain JSON: what it was trained on, by which command, with which figures.
    """
    metadata = json.dumps(manifest(network.settings, version, provenance or {}), sort_keys=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(network.state_dict().items())}
    return safetensors.torch.save(tensors, metadata={_METADATA: metadata})


def load(content: bytes) -> Loaded:
    """The weights in a file's bytes. Raises Refused, and then nothing of anybody's was changed.

    Reasons: invalid_payload (no such file, or a number in it that is none), version_mismatch (another format or
    architecture), registry_mismatch, incompatible_update (other features or relations, missing or unknown tensors),
    shape_mismatch.
    """
    told = metadata(content)
    if told.get("format") != FORMAT or told.get("architecture") != ARCHITECTURE:
        what = f"format {told.get('format')} and architecture {told.get('architecture')!r}"
        raise Refused("version_mismatch", f"weights of {what}; this Esper reads {FORMAT} and {ARCHITECTURE!r}")
    try:
        settings = Settings.of(told["settings"])
        asked = json.loads(json.dumps(manifest(settings, told["version"], {})))
        with torch.device("meta"):  # without a draw from the random stream of a run that trains here
            network = TamiyoNet(settings)
    except Exception as error:  # noqa: BLE001 - whatever a file's numbers can make them raise
        raise Refused("invalid_payload", f"its settings make no network: {type(error).__name__} {error}") from None
    for name, reason in (
        ("registries", "registry_mismatch"),
        ("features", "incompatible_update"),
        ("relations", "incompatible_update"),
    ):
        if told.get(name) != asked[name]:
            raise Refused(
                reason, f"its {name} are others than this Esper's: {_first_difference(told.get(name), asked[name])}"
            )
    sets = told.get("action_set", SEEDS_ONLY), told.get("risk_engine", 1)
    if sets[0] not in (SEEDS_ONLY, EVERYTHING) or sets[1] not in (1, VERSION):
        raise Refused(
            "incompatible_update",
            f"action set {sets[0]!r} and risk engine {sets[1]!r}; this Esper has "
            f"{SEEDS_ONLY} and {EVERYTHING}, 1 and {VERSION}",
        )
    _into(network, _tensors(content))
    network.eval()
    digest = hashlib.sha256(content).digest()
    return Loaded(network, str(told["version"]), digest, told.get("provenance", {}), *map(int, sets))


def metadata(content: bytes) -> dict[str, Any]:
    """What a file says of itself, without its tensors. Raises Refused (invalid_payload)."""
    if len(content) > MOST_BYTES:
        raise Refused("invalid_payload", f"{len(content)} bytes; a policy has {MOST_BYTES} at most")
    try:
        length = int.from_bytes(content[:8], "little")
        told = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_METADATA])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused("invalid_payload", f"no policy's weights: {type(error).__name__} {error}") from None
    if not isinstance(told, dict):
        raise Refused("invalid_payload", "no policy's weights: its metadata is no table")
    return told


def _tensors(content: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise Refused("invalid_payload", f"no safetensors file: {error}") from None


def _into(network: TamiyoNet, tensors: Mapping[str, Tensor]) -> None:
    """Load the tensors, all of them or none."""
    wanted = network.state_dict()
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unknown:
        raise Refused("incompatible_update", f"tensors missing: {missing[:3]}, unknown: {unknown[:3]}")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            then, now = ((tuple(each.shape), str(each.dtype)) for each in (tensor, wanted[name]))
            raise Refused("shape_mismatch", f"{name} is {then} and should be {now}")
        if not bool(tensor.isfinite().all()):
            raise Refused("invalid_payload", f"{name} holds numbers that are none")
    network.load_state_dict(dict(tensors), assign=True)


def _first_difference(told: Any, asked: Any) -> str:
    if isinstance(told, dict) and isinstance(asked, dict):
        return next((key for key in sorted(told.keys() | asked.keys()) if told.get(key) != asked.get(key)), "")
    return "the list"
