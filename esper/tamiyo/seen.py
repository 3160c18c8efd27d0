"""What a packet says of its places, read once, as columns of numbers over all places; and the nodes' rows from those.

A packet is read in Python, one figure after the other, and that is all that is done place by place: everything behind
it is done for all places at once, because a decision is waited for. Rows are [places, columns of `esper.tamiyo.
features`], float64 until the graph is made; what is no number is 0 in them, and its mask 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.leyline.v1.event_pb2 import EpochCompleted, SeedObservation, SiteEvidence
from esper.kasmina.lifecycle import ALIVE, STAGES
from esper.tamiyo import features
from esper.tamiyo.options import Host, Options, host_of, options_of

Column = NDArray[np.float64]
Rows = NDArray[np.float64]

_STAGE_ROWS: Final = {stage: row for row, stage in enumerate(STAGES)}
_STAGES: Final[Rows] = np.array(
    [[*(float(stage == each) for each in STAGES[1:9]), float(stage in STAGES[9:])] for stage in STAGES]
)
"""Of each stage in the order of `STAGES` the columns that say which it is; the unknown one's are 0."""


@dataclass(frozen=True, slots=True)
class Places:
    """The sites whose slot was observed, in the packet's order; a slot without a site is nowhere and has no row.

    Every column has a number for each place; `live` are the rows of the seeds that have yet to prove themselves.
    """

    host: Host
    live: list[int]
    stage: NDArray[np.int64]
    age: Column
    alpha: Column
    life: Column
    culls: Column
    parameters: Column
    seed_gradient: Column
    ratio: Column
    contribution: Column
    contribution_stderr: Column
    loss_before: Column
    ready: Column
    embargo: Column
    leaks: Column
    closed: Column
    change: Column
    change_stderr: Column
    evidence: Column
    gradient: Column
    gradient_share: Column
    norm: Column
    descent: Column
    candidate: Column
    candidate_known: Column
    rank: Column
    dead: Column
    rank_share: Column


def read(state: EpochCompleted, seeds: Sequence[SeedObservation]) -> Places:
    """The places of a packet; `seeds` are its seeds, in a list that is made once."""
    observed = {seed.seed_id: seed for seed in seeds}
    evidence = {row.seed_id: row for row in state.evidence}
    offered, live = list[Options](), list[int]()
    figures, stages = list[tuple[float, ...]](), list[int]()
    for site in state.sites:
        seed_id = site.seed_id
        seed = observed.get(seed_id)
        if seed is None:
            continue
        at, stage = len(offered), seed.stage
        if stage in ALIVE:
            live.append(at)
        offered.append(options_of(site.SerializeToString(deterministic=True)))
        stages.append(_STAGE_ROWS.get(stage, 0))
        figures.append(_of_seed(seed) + _of(evidence.get(seed_id)))
    table = np.array(figures, dtype=np.float64).reshape(-1, _FIGURES).T
    age, alpha, life, culls, parameters, seed_gradient, ratio = table[:7]
    contribution, contribution_stderr, loss_before, ready, embargo, leaks = table[7:13]
    closed, change, change_stderr, evidenced, candidate_known = table[13:18]
    gradient, norm, descent, candidate, rank, dead = np.where(np.isfinite(table[18:]), table[18:], 0.0)
    host = host_of(tuple(offered))
    rank_share = np.minimum(1.0, table[22] / host.rank_of)
    return Places(
        host=host,
        live=live,
        stage=np.array(stages, dtype=np.int64),
        age=age,
        alpha=alpha,
        life=life,
        culls=culls,
        parameters=parameters,
        seed_gradient=seed_gradient,
        ratio=ratio,
        contribution=contribution,
        contribution_stderr=contribution_stderr,
        loss_before=loss_before,
        ready=ready,
        embargo=embargo,
        leaks=leaks,
        closed=closed,
        change=change,
        change_stderr=change_stderr,
        evidence=evidenced,
        gradient=gradient,
        gradient_share=gradient / _largest(gradient),
        norm=norm,
        descent=descent / _largest(descent),
        candidate=candidate / _largest(candidate),
        candidate_known=candidate_known,
        rank=rank,
        dead=dead,
        rank_share=np.where(np.isfinite(rank_share), rank_share, 0.0),
    )


_FIGURES: Final = 16 + 8


def _of_seed(seed: SeedObservation) -> tuple[float, ...]:
    """What was not measured is no number."""
    return (
        seed.stage_age_epochs,
        seed.alpha,
        seed.life,
        seed.culls,
        seed.parameters,
        seed.gradient_norm,
        seed.activation_norm_ratio,
        seed.contribution if seed.HasField("contribution") else math.nan,
        seed.contribution_stderr,
        seed.loss_before,
        seed.gate_ready,
        seed.epochs_until_free,
        seed.isolation_violations,
        seed.closed,
        seed.change if seed.HasField("change") else math.nan,
        seed.change_stderr,
    )


def _of(row: SiteEvidence | None) -> tuple[float, ...]:
    if row is None:
        return (0.0,) * 8
    return (
        1.0,
        row.HasField("candidate_descent"),
        row.gradient_norm,
        row.activation_norm,
        row.descent,
        row.candidate_descent,
        row.activation_rank,
        row.dead_fraction,
    )


def _largest(column: Column) -> float:
    """What a figure is divided by; 1 where none is above 0."""
    largest = float(column.max(initial=0.0))
    return largest if largest > 0.0 else 1.0


# ---------------------------------------------------------------------------------------------------------------- rows


def seed_rows(places: Places, loss: float) -> Rows:
    """The rows of the slots; `loss` is the probe loss now."""
    since = np.where((places.parameters > 0.0) & (places.loss_before > 0.0), loss - places.loss_before, math.nan)
    columns = [
        np.log1p(places.age),
        places.alpha,
        np.log1p(places.life),
        np.log1p(places.culls),
        np.log1p(places.parameters) / 2.0,
        symlog(places.seed_gradient),
        symlog(places.ratio),
        *_measured(places.contribution, places.contribution_stderr),
        symlog(since),
        np.isfinite(since),
        places.ready,
        np.log1p(places.embargo),
        np.log1p(places.leaks),
        places.closed,
        *_measured(places.change, places.change_stderr),
        places.host.depth,
        places.host.layer[:, _LAYER["wider"]],
    ]
    return np.concatenate([_STAGES[places.stage], np.stack(columns, axis=1)], axis=1)


def layer_rows(places: Places) -> Rows:
    """The rows of the layers."""
    rows = places.host.layer.copy()
    pull = places.gradient * places.norm
    candidate = places.candidate * places.candidate_known
    for name, column in (
        ("gradient_share", places.gradient_share),
        ("activation_norm", symlog(places.norm)),
        ("pull", pull / _largest(pull)),
        ("descent", places.descent),
        ("candidate", candidate),
        ("candidate?", places.candidate_known),
        ("evidence?", places.evidence),
        ("rank_share", places.rank_share),
    ):
        rows[:, _LAYER[name]] = column
    return rows


_LAYER: Final = {name: column for column, name in enumerate(features.LAYER)}


def activation_rows(places: Places) -> Rows:
    """The rows of what the layers give; 0 where there is no evidence."""
    columns = [
        symlog(places.norm),
        np.log1p(np.maximum(0.0, places.rank)),
        places.rank_share * places.evidence,
        places.dead,
        symlog(100.0 * places.gradient),
        places.evidence,
    ]
    return np.stack(columns, axis=1)


def symlog(column: Column) -> Column:
    """`features.symlog` of every number of a column."""
    found: Column = np.where(np.isfinite(column), np.copysign(np.log1p(np.abs(column)), column), 0.0)
    return found


def _measured(value: Column, stderr: Column) -> tuple[Column, Column, NDArray[np.bool_]]:
    """Paired measurements: the values, how many standard errors each is, and whether it was made."""
    known = np.isfinite(value)
    errors = np.where(np.isfinite(stderr) & (stderr > 0.0), value / stderr, 0.0)
    return symlog(10.0 * value), symlog(errors), known
