"""The pictures of a run, out of a history: what the report and the notebooks both show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from esper.karn.table import with_names
from esper.metric import LOWER_IS_BETTER, Figure
from projections.history import History
from projections.pictures.charts import Lane, Mark, Series, Stay, lines, swimlane
from projections.pictures.network import Growth, Place
from projections.pictures.network import network as draw_network
from projections.pictures.svg import Picture

_MANY_MARKS: Final = 8
_FOR_EVER: Final = 2**63 - 1
_MIXED: Final = frozenset({"BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED"})
"""Stages in which a seed is part of what the network computes."""
_MOMENTS: Final = {"GERMINATED": "{seed} {blueprint}", "FOSSILIZED": "{seed} kept", "CULLED": "{seed} culled"}
"""The moves that a curve is marked with."""


def metric(history: History, runs: Mapping[str, str], width: float = 390, name: str | None = None) -> Picture:
    """A metric on the probe set, epoch by epoch; `runs` are names and run ids, the first one is marked.

    `name` is the metric's; None is the main one of the first run. A run that was not measured by it has no curve.
    """
    first = next(iter(runs.values()))
    found = history.execute(
        "select name, unit, direction from metrics where run_id = ? and (name = ? or ? is null and main) "
        "order by epoch desc limit 1",
        [first, name, name],
    ).fetchone()
    called, unit, direction = found or (name or "accuracy", "", "")
    label = Figure(called, unit, direction == LOWER_IS_BETTER, 0.0).label_on("probe set")
    what, which = "select epoch, value from metrics", {"name": called, "measured_on": "probe"}
    series = [Series(each, _told(history, run_id, what, "epoch", **which)) for each, run_id in runs.items()]
    return lines(series, title=label, marks=_marks(history, first), width=width)


def loss(history: History, runs: Mapping[str, str], width: float = 390) -> Picture:
    """The mean loss on the probe set, epoch by epoch; in nats where classes or text are learnt."""
    (nats,) = history.execute(
        "select coalesce(bool_or(unit = 'nats' or name = 'accuracy'), false) from metrics where run_id = ?",
        [next(iter(runs.values()))],
    ).fetchone()
    return _curves(history, runs, "probe_loss", f"Loss on the probe set{' (nats)' if nats else ''}", width)


def parameters(history: History, runs: Mapping[str, str], width: float = 390) -> Picture:
    """How large each network was, epoch by epoch."""
    return _curves(history, runs, "params", "Parameters of the network", width, steps=True)


def flops(history: History, runs: Mapping[str, str], width: float = 390) -> Picture:
    """What had been spent by the end of each epoch."""
    return _curves(history, runs, "flops", "FLOPs spent so far", width)


def _curves(
    history: History, runs: Mapping[str, str], column: str, title: str, width: float, *, steps: bool = False, **how: Any
) -> Picture:
    what = f"select epoch, {column} from epochs"  # noqa: S608  names of ours
    series = [Series(name, _told(history, run_id, what, "epoch"), steps) for name, run_id in runs.items()]
    return lines(series, title=title, marks=_marks(history, next(iter(runs.values()))), width=width, **how)


def seeds(history: History, run_id: str, width: float = 1040) -> Picture:
    """Which stage each seed of a run was in as far as it has come; a fork's lanes begin with its parent's."""
    steps, come, epochs = _extent(history, run_id)
    lanes = []
    for seed_id, site in history.execute(
        "select seed_id, site from seeds where run_id = ? order by length(seed_id), seed_id", [run_id]
    ).fetchall():
        what = "select step, to_stage, reason, blueprint_id from transitions"
        moves = _told(history, run_id, what, "sequence", seed_id=seed_id)
        ends = [begin / steps for begin, *_ in moves[1:]] + [max(come, step / steps) for step, *_ in moves[-1:]]
        stays = [
            Stay(stage, begin / steps, end, with_names(f"{blueprint or ''} {reason}".strip()))
            for (begin, stage, reason, blueprint), end in zip(moves, ends, strict=True)
        ]
        lanes.append(Lane(seed_id, site, stays))
    return swimlane(lanes, epochs=epochs, width=width, marks=_rollbacks(history, run_id, steps))


def _told(history: History, run_id: str, what: str, order: str, **where: str) -> list[tuple[Any, ...]]:
    """What the surviving facts of a run say, a fork's after those that it has from its parents."""
    only = "".join(f" and {name} = ${name}" for name in where)
    query = f"{what} where run_id = $run and sequence <= $upto and surviving{only} order by {order}"
    return [
        row
        for run, upto in _line(history, run_id)
        for row in history.execute(query, {"run": run, "upto": upto, **where}).fetchall()
    ]


def _line(history: History, run_id: str) -> list[tuple[str, int]]:
    """The runs that a run's history is made of, the oldest first, each with the last sequence that counts."""
    query = "select parent_run_id, parent_sequence from log.run_started where run_id = ? order by log_offset limit 1"
    line: list[tuple[str, int]] = []
    upto = _FOR_EVER
    while run_id and run_id not in {name for name, _ in line}:
        line.insert(0, (run_id, upto))
        starts = history.execute(query, [run_id]).fetchall()
        run_id, upto = starts[0] if starts else ("", 0)
    return line


def alphas(history: History, run_id: str, width: float = 390) -> Picture:
    """How strongly each seed was mixed in, epoch by epoch."""
    query = (
        "select seed.seed_id, epoch, case when stage_name(seed.stage) <> 'DORMANT' then seed.alpha end "
        "from (select *, unnest(seeds) as seed from epochs) as each"
    )
    points: dict[str, list[tuple[float, float | None]]] = {}
    for seed_id, epoch, alpha in _told(history, run_id, query, "all"):
        points.setdefault(seed_id, []).append((epoch, alpha))
    lived = [Series(name, each) for name, each in points.items() if any(alpha is not None for _, alpha in each)]
    return lines(lived, title="Alpha: how strongly each seed is mixed in", span=(0, 1), width=width)


def network(history: History, run_id: str, width: float = 1040) -> Picture:
    """The places of a run's network in the order in which they work, and what grew at each."""
    sites = history.execute(
        "select site.seed_id, site.site, site.shape_kind, site.shape, site.depth, "
        "site.width.consumer, site.width.units "
        "from (select unnest(sites) as site from (from log.run_started where run_id = ? order by log_offset limit 1))",
        [run_id],
    ).fetchall()
    slots: dict[str, list[tuple[Any, ...]]] = {}
    query = (
        "select site, seed_id, stage, blueprint_id, parameters, since_epoch, life, opened_by from seeds "
        "where run_id = ? order by length(seed_id), seed_id"
    )
    for site, *slot in history.execute(query, [run_id]).fetchall():
        slots.setdefault(site, []).append(tuple(slot))
    changed: dict[str, list[tuple[Any, ...]]] = {}
    query = (
        "select seed_id, change, epoch, units_before, units from growth where run_id = ? and surviving order by epoch"
    )
    for seed_id, *change in history.execute(query, [run_id]).fetchall():
        changed.setdefault(seed_id, []).append(tuple(change))
    places, seen = [], set[str]()
    for _, site, kind, shape, _, _, units in _in_order(sites):
        if site in seen:
            continue
        seen.add(site)
        grown = [_grown(slot, changed.get(slot[0], [])) for slot in slots.get(site, [])]
        given = " \N{MULTIPLICATION SIGN} ".join(str(size) for size in shape)
        wider = [
            change for slot in slots.get(site, []) for change in changed.get(slot[0], []) if change[0] == "absorbed"
        ]
        told = f"{wider[0][2]} units, now {wider[-1][3]}" if wider else f"{units} units" if units else f"{kind} {given}"
        places.append(Place(site, told, [each for each in grown if each is not None]))
    (row,) = history.execute("select task, params_host, params_final from runs where run_id = ?", [run_id]).fetchall()
    task, host, final = row
    return draw_network(places, first=f"{task}: its input", last=_size(host, final), width=width)


def _size(host: int, final: int | None) -> str:
    if final is None or final == host:
        return f"its output: {host:,} parameters"
    return f"its output: {host:,} parameters at first, {final:,} now"


def _in_order(sites: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Sites as they work: modules by their depth; a layer that can become wider before the block that it is in."""
    deep = sorted((site for site in sites if not site[5]), key=lambda site: site[4])
    wide = sorted((site for site in sites if site[5]), key=lambda site: site[4])
    ordered = list(deep)
    for place, layer in enumerate(wide):
        within = next((n for n, each in enumerate(ordered) if layer[1].startswith(f"{each[1]}.")), None)
        if within is None:  # between those that are as far along as it is
            share = (place + 0.5) / len(wide)
            within = round(share * len(ordered))
        ordered.insert(within, layer)
    return ordered


def _grown(slot: tuple[Any, ...], changes: list[tuple[Any, ...]]) -> Growth | None:
    """A seed slot as it is drawn; None where nothing ever germinated."""
    seed_id, stage, blueprint_id, parameters, since_epoch, life, _ = slot
    rewound = [epoch for change, epoch, *_ in changes if change == "rewound"]
    absorbed = [change for change in changes if change[0] == "absorbed"]
    if not life and not rewound:
        return None
    name = f"{seed_id} {with_names(blueprint_id)}" if blueprint_id else str(seed_id)
    if absorbed:
        _, epoch, before, after = absorbed[-1]
        return Growth(
            name, f"made it wider from {before} to {after} units, part of it since epoch {epoch}", stage, True
        )
    if rewound and stage == "DORMANT":
        return Growth(name, f"rewound in epoch {rewound[-1]}: its proof failed", "CULLED", joined=False)
    what = f"{stage.lower()} since epoch {since_epoch}" if since_epoch is not None else stage.lower()
    size = f"{parameters:,} parameters, " if parameters else ""
    return Growth(name, size + what, stage, joined=stage in _MIXED)


def _extent(history: History, run_id: str) -> tuple[int, float, float]:
    """Steps in an epoch, how many epochs the run has come, and how many its pictures are wide."""
    (row,) = history.execute(
        "select any_value(started.steps_per_epoch), max(runs.epochs_done), max(runs.epochs_planned), max(runs.status) "
        "from runs join log.run_started as started using (run_id) where run_id = ?",
        [run_id],
    ).fetchall()
    steps, done, planned, status = row
    return max(steps, 1), done, planned if status == "running" else max(done, 1)


def _rollbacks(history: History, run_id: str, steps: int) -> list[Mark]:
    """Where the run went back, and how: a rewind, as a failed proof asks for, is no rollback to whoever reads it."""
    found = history.execute(
        "select from_step / ?, level from log.rolled_back where run_id = ? and log_verdict = 1 order by log_offset",
        [steps, run_id],
    ).fetchall()
    return [Mark(at, "rewound" if level == "rewind" else "rolled back") for at, level in found]


def _marks(history: History, run_id: str) -> list[Mark]:
    steps, *_ = _extent(history, run_id)
    told = _told(history, run_id, "select step, to_stage, seed_id, blueprint_id from transitions", "sequence")
    moves = [(step / steps, *move) for step, *move in told if move[0] in _MOMENTS]
    if len(moves) > _MANY_MARKS:
        moves = [move for move in moves if move[1] == "FOSSILIZED"]
    marks = [
        Mark(at, _MOMENTS[stage].format(seed=seed, blueprint=with_names(blueprint or "")))
        for at, stage, seed, blueprint in moves
    ]
    return marks + _rollbacks(history, run_id, steps)
