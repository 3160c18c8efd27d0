"""The catalogue: one row for each blueprint, and which function makes its module. Read without torch.

A row names its id, name, family, stage, risk, tags, description, settings and, where they are not all three, the kinds
of site that it serves. The module of a row is made by the function of the row's name in
`esper/karn/templates/<family>.py`, so a new blueprint is such a function and a row here. What a module costs stands
nowhere: it is measured on the module (`esper.karn.catalogue`).
"""

from __future__ import annotations

import ast
import re
from difflib import get_close_matches
from functools import partial
from importlib import resources
from typing import Final

from esper.errors import InvalidInput
from esper.karn.blueprint import ALL_KINDS, Blueprint, Setting, ShapeKind, Tier

_ID: Final = re.compile(r"(?<!\()\b(?P<id>BP\d{3})\b(?P<behind> \w+)?")
"""A blueprint's id in a text, with the word after it, which may be its name; not one that stands behind it already."""

_IMAGE_TOKEN: Final[tuple[ShapeKind, ...]] = ("image", "token")
_VECTOR_IMAGE: Final[tuple[ShapeKind, ...]] = ("vector", "image")


def _real(name: str, minimum: float, maximum: float, *, default: float) -> Setting:
    return Setting(name, minimum, maximum, default)


def _whole(name: str, minimum: int, maximum: int, *, default: int) -> Setting:
    return Setting(name, minimum, maximum, default, integer=True)


def _row(  # noqa: PLR0917 - a row of the table is read by its columns
    tier: Tier,
    blueprint_id: str,
    name: str,
    family: str,
    stage: int,
    risk: float,
    tags: str,
    description: str,
    *settings: Setting,
    kinds: tuple[ShapeKind, ...] = ALL_KINDS,
    sections: int = 1,
) -> Blueprint:
    words = tuple(tags.split())
    return Blueprint(blueprint_id, name, family, stage, risk, description, kinds, settings, tier, words, sections)


_safe = partial(_row, "safe")
_experimental = partial(_row, "experimental")
_stressor = partial(_row, "high_risk")

# fmt: off
_ROWS: Final = (
    # safe: anybody may use them
    _safe("BP001", "identity_passthrough", "elementary", 0, 0.0, "identity",
        "s = h"),
    _safe("BP002", "linear_projection", "elementary", 0, 0.1, "linear",
        "h + scale * (W h + b)", _real("scale", 0.5, 2.0, default=1.0)),
    _safe("BP003", "layer_norm_basic", "elementary", 0, 0.1, "norm",
        "LayerNorm over features", _real("epsilon", 1e-06, 0.001, default=1e-05)),
    _safe("BP004", "dropout_light", "elementary", 0, 0.2, "regulariser",
        "dropout while training", _real("dropout", 0.0, 0.4, default=0.1)),
    _safe("BP005", "relu_activation", "elementary", 0, 0.1, "activation",
        "max(h, 0)"),
    _safe("BP006", "batch_norm_1d", "elementary", 0, 0.2, "norm",
        "batch normalisation of each feature", _real("momentum", 0.5, 0.99, default=0.9), kinds=_VECTOR_IMAGE),
    _safe("BP007", "pooling_max", "elementary", 0, 0.2, "pooling",
        "largest of each neighbourhood", _whole("kernel", 2, 5, default=2), kinds=_IMAGE_TOKEN),
    _safe("BP008", "skip_connection", "residual", 1, 0.2, "residual",
        "h + W relu(norm(h))"),
    _safe("BP009", "residual_block", "residual", 1, 0.3, "residual",
        "h + W2 gelu(W1 h), four times wider inside", _whole("depth", 1, 4, default=1)),
    _safe("BP010", "concat_fusion", "residual", 1, 0.3, "fusion",
        "h + W [branches of growing reach]", _whole("branches", 2, 4, default=2)),
    _safe("BP011", "gelu_activation", "elementary", 1, 0.2, "activation",
        "h * Phi(h)"),
    _safe("BP012", "layer_scaling", "gating", 1, 0.3, "scaling",
        "h * (1 + scale * gamma)", _real("scale", 0.8, 1.2, default=1.0)),
    _safe("BP013", "grouped_conv", "convolution", 1, 0.4, "conv",
        "h + W gelu(G h), G by groups", _whole("groups", 2, 8, default=2)),
    _safe("BP014", "highway_gate", "gating", 1, 0.4, "gating",
        "h + gate(h) * u(h)", _real("gate_bias", -3.0, 3.0, default=-1.0)),
    _safe("BP015", "depthwise_separable", "convolution", 2, 0.4, "conv",
        "h + W gelu(D h), D per channel", _whole("kernel", 3, 7, default=3), kinds=_IMAGE_TOKEN),
    _safe("BP016", "squeeze_excitation", "gating", 2, 0.4, "attention channel",
        "h * 2 sigmoid(W2 silu(W1 squeeze(h)))", _whole("reduction", 4, 16, default=4)),
    _safe("BP017", "channel_attention", "gating", 2, 0.4, "attention channel",
        "h * 2 sigmoid(attention among channels)", _whole("heads", 1, 4, default=1)),
    _safe("BP018", "spatial_attention", "gating", 2, 0.4, "attention spatial",
        "h * 2 sigmoid(K [mean, max over channels])", _whole("radius", 1, 3, default=1), kinds=_IMAGE_TOKEN),
    _safe("BP019", "cross_attention", "attention", 2, 0.5, "attention",
        "h + W cross(h, summary of h)", _whole("heads", 2, 4, default=2), kinds=_IMAGE_TOKEN),
    _safe("BP020", "attention_single_head", "attention", 2, 0.5, "attention",
        "h + W attention(norm(h)), one head", _whole("sequence_length", 16, 256, default=64), kinds=_IMAGE_TOKEN),
    _safe("BP021", "feedforward_gated", "residual", 2, 0.5, "mlp",
        "h + W (gelu(A n) * B n)", _real("hidden_multiple", 2.0, 6.0, default=2.0)),
    _safe("BP022", "multi_head_attention_4", "attention", 3, 0.5, "attention",
        "h + W attention(norm(h)), four heads", _whole("heads", 4, 6, default=4), kinds=_IMAGE_TOKEN),
    _safe("BP023", "transformer_block", "attention", 3, 0.5, "transformer attention",
        "pre-norm attention and MLP, both residual", _whole("layers", 1, 6, default=1), kinds=_IMAGE_TOKEN),
    _safe("BP024", "conv_transformer", "attention", 3, 0.5, "attention conv hybrid",
        "attention, then a gated convolution, both residual", _whole("kernel", 3, 11, default=3), kinds=_IMAGE_TOKEN),
    _safe("BP025", "dynamic_conv", "convolution", 3, 0.5, "conv dynamic",
        "h + W gelu(D(h) h), D mixed for each input", _whole("experts", 2, 8, default=2)),
    _safe("BP026", "adaptive_pooling", "elementary", 3, 0.5, "pooling",
        "h + W gelu(norm(mean of the region))", _whole("output_size", 4, 16, default=4), kinds=_IMAGE_TOKEN),
    _safe("BP027", "feature_pyramid", "convolution", 3, 0.5, "fusion conv",
        "h + W of a top-down feature pyramid", _whole("levels", 3, 5, default=3), kinds=_IMAGE_TOKEN),
    _safe("BP028", "dense_connection", "residual", 3, 0.5, "dense conv",
        "h + W of three densely connected layers", _whole("growth_rate", 8, 48, default=8)),
    _safe("BP029", "multi_head_attention_8", "attention", 4, 0.5, "attention",
        "h + W attention(norm(h)), eight heads", _whole("heads", 8, 10, default=8), kinds=_IMAGE_TOKEN),
    _safe("BP030", "graph_attention", "attention", 4, 0.5, "attention graph",
        "h + W of attention among neighbours", _whole("hops", 1, 3, default=1), kinds=_IMAGE_TOKEN),
    _safe("BP031", "temporal_conv", "convolution", 4, 0.5, "conv temporal",
        "h + W of two causal convolutions", _whole("dilation", 1, 5, default=1), kinds=("token",)),
    _safe("BP032", "dilated_conv", "convolution", 4, 0.5, "conv",
        "h + W gelu(D h), D dilated", _whole("dilation", 1, 8, default=2), kinds=_IMAGE_TOKEN),
    _safe("BP033", "deformable_conv", "convolution", 4, 0.5, "conv dynamic",
        "h + W gelu(convolution at learned places)", _whole("offset_groups", 1, 4, default=1), kinds=_IMAGE_TOKEN),
    _safe("BP034", "non_local_block", "attention", 4, 0.5, "attention spatial",
        "h + W of pairwise products with other places", _whole("window", 4, 16, default=8), kinds=_IMAGE_TOKEN),
    _safe("BP035", "learned_positional", "elementary", 4, 0.5, "positional",
        "h + W [sin, cos] of the place", _real("frequency", 0.1, 1.0, default=1.0), kinds=_IMAGE_TOKEN),
    # experimental: they need an approval
    _experimental("BP036", "mixture_of_experts_4", "experimental", 5, 0.7, "moe dynamic",
        "h + the two best of several experts",
        _whole("experts", 4, 8, default=4), _real("capacity", 1.0, 2.0, default=1.25)),
    _experimental("BP037", "hierarchical_attention", "experimental", 5, 0.7, "attention",
        "h + W attention over coarser and coarser views", _whole("levels", 2, 4, default=2), kinds=_IMAGE_TOKEN),
    _experimental("BP038", "memory_augmented", "experimental", 5, 0.8, "memory",
        "h + W of a look-up by content", _whole("memory_slots", 32, 128, default=32)),
    _experimental("BP039", "neural_ode_block", "experimental", 5, 0.8, "ode residual",
        "h moved along a learned field for unit time", _whole("steps", 1, 10, default=2)),
    _experimental("BP040", "differentiable_nas", "experimental", 5, 0.8, "nas dynamic",
        "h + W of a learned mixture of layers", _real("temperature", 0.5, 2.0, default=1.0)),
    _experimental("BP041", "meta_learning_layer", "experimental", 5, 0.8, "meta dynamic",
        "h + W of a layer that learns from the sample", _whole("adapt_steps", 1, 5, default=1)),
    _experimental("BP042", "recursive_processing", "experimental", 5, 0.8, "recursive residual",
        "one layer applied again and again", _whole("depth", 2, 6, default=2)),
    # stressors: they need an approval and a quarantine drill
    _stressor("BP043", "exploding_gradient", "stressors", 6, 0.9, "stressor gradient",
        "gradient times scale^6", _real("scale", 5.0, 20.0, default=10.0)),
    _stressor("BP044", "vanishing_gradient", "stressors", 6, 0.9, "stressor gradient",
        "gradient times decay^6", _real("decay", 0.0, 0.1, default=0.05)),
    _stressor("BP045", "nan_injection", "stressors", 6, 1.0, "stressor nan",
        "a NaN in some passes", _real("frequency", 0.01, 0.1, default=0.05)),
    _stressor("BP046", "infinite_loop", "stressors", 6, 1.0, "stressor time",
        "thousands of useless rounds in every pass", _whole("iterations", 1000, 10000, default=1000)),
    _stressor("BP047", "memory_leak", "stressors", 6, 1.0, "stressor memory",
        "keeps more memory in every pass", _real("growth_rate", 1.0, 5.0, default=1.0)),
    _stressor("BP048", "deadlock_pattern", "stressors", 6, 1.0, "stressor concurrency time",
        "threads that wait for each other", _whole("threads", 2, 16, default=2)),
    _stressor("BP049", "race_condition", "stressors", 6, 0.9, "stressor concurrency",
        "output scaled by a lost-update count", _real("window_ns", 10.0, 1000.0, default=100.0)),
    _stressor("BP050", "adversarial_noise", "stressors", 6, 0.9, "stressor noise",
        "noise against the loss's gradient", _real("epsilon", 0.1, 1.0, default=0.5)),
    # safe, and beyond the plan's fifty: they make a layer of the host wider
    _safe("BP051", "wider_layer", "width", 1, 0.2, "width",
        "new units beside a layer's own, with outgoing weights of zero",
        _real("factor", 0.25, 2.0, default=1.0), kinds=()),
    _safe("BP052", "attention_heads", "width", 1, 0.2, "width attention",
        "new heads beside an attention's own, with output columns of zero",
        _real("factor", 0.25, 2.0, default=1.0), kinds=(), sections=3),
    # ... and cheaper forms of the residual block
    _safe("BP060", "residual_conv_1d", "lean", 1, 0.3, "residual conv",
        "h + W2 gelu(W1 h), W1 along the longer axis", _whole("kernel", 3, 7, default=3), kinds=("image",)),
    _safe("BP061", "residual_depthwise", "lean", 1, 0.3, "residual conv",
        "h + W2 gelu(W1 D h), D per channel", _whole("kernel", 3, 7, default=3), kinds=_IMAGE_TOKEN),
    _safe("BP062", "residual_slim", "lean", 1, 0.3, "residual",
        "h + W2 gelu(W1 h), no wider inside", _real("expansion", 0.5, 4.0, default=1.0)),
)
# fmt: on

CATALOGUE: Final[dict[str, Blueprint]] = {row.blueprint_id: row for row in _ROWS}
"""Every blueprint by its id, in order of ids."""


def find(blueprint_id: str) -> Blueprint:
    """The blueprint of that id; raises InvalidInput where the catalogue has none."""
    blueprint = CATALOGUE.get(blueprint_id)
    if blueprint is None:
        raise InvalidInput(
            f"there is no blueprint {blueprint_id!r}; the catalogue has {min(CATALOGUE)} to {max(CATALOGUE)}"
        )
    return blueprint


def find_by_name(word: str) -> Blueprint:
    """The blueprint of that id or name, however it is capitalised.

    Raises InvalidInput where there is none, with those that come near.
    """
    by_word = {key: each for each in CATALOGUE.values() for key in (each.blueprint_id.lower(), each.name)}
    found = by_word.get(word.strip().lower())
    if found is not None:
        return found
    near = dict.fromkeys(by_word[key] for key in get_close_matches(word.lower(), by_word, n=3))
    named = " or ".join(f"{each.blueprint_id} {each.name}" for each in near)
    hint = f"did you mean {named}?" if near else f"the catalogue has {min(CATALOGUE)} to {max(CATALOGUE)}"
    raise InvalidInput(f"there is no blueprint {word!r}; {hint}")


def with_names(text: str) -> str:
    """`text` with the name of each blueprint before its id, as people read it: residual_block (BP009)."""
    return _ID.sub(_named, text)


def _named(found: re.Match[str]) -> str:
    blueprint = CATALOGUE.get(found["id"])
    if blueprint is None:
        return found[0]
    behind = found["behind"] or ""
    return blueprint.full_name + ("" if behind == f" {blueprint.name}" else behind)


def formula(blueprint: Blueprint) -> str:
    """A blueprint's formula, shapes and source: the docstring of the function that makes its module."""
    source = resources.files("esper.karn").joinpath("templates", f"{blueprint.family}.py").read_text("utf-8")
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    text = next(ast.get_docstring(node) or "" for node in functions if node.name == blueprint.name)
    return text.replace(blueprint.blueprint_id, f"{blueprint.blueprint_id} {blueprint.name}", 1)
