"""A run as spans, as tracing has them: run, epochs, hooks, decisions, checkpoints, out of the record's own times.

    run
    ├─ epoch 1
    │  ├─ training
    │  ├─ hook ─ assembly, decision (─ decide, of the decider), command, acknowledgement
    │  └─ checkpoint
    └─ epoch 2 ...

What happened to a seed and what a gate said are events of the epoch's span. Nothing is measured for this: an epoch
begins where the one before ended, and its training with it, as long as was recorded; what lies between training and
hook are probe, gates and evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from projections.interchange.figures import Taken

if TYPE_CHECKING:
    from projections.history import History

TRAINER, DECIDER = "esper-trainer", "esper-decider"

_EPOCHS: Final = """
WITH told AS (
    SELECT * FROM hooks WHERE run_id = $run
    QUALIFY row_number() OVER (PARTITION BY epoch, timeline, incarnation ORDER BY recorded_at DESC) = 1
)
SELECT e.epoch, e.step, e.incarnation, e.timeline, epoch_ns(e.recorded_at) AS packet_ns, e.duration_s, e.surviving,
    e.training_loss, e.probe_loss, h.latency_ms, h.assembly_ms, h.decision_ms, h.command_ms, h.acknowledgement_ms,
    epoch_ns(h.recorded_at) AS told_ns, d.chosen, d.reason, d.risk, d.policy, d.policy_version,
    d.latency_ms AS decider_ms, epoch_ns(d.recorded_at) AS decided_ns, d.event_id AS decision_id
FROM epochs AS e
LEFT JOIN told AS h ON h.epoch = e.epoch AND h.timeline = e.timeline AND h.incarnation = e.incarnation
LEFT JOIN decisions AS d ON d.run_id = e.run_id AND d.packet_id = e.event_id
WHERE e.run_id = $run
ORDER BY e.log_offset
"""

_CHECKPOINTS: Final = """
SELECT epoch_ns(recorded_at), duration_ms, reason, ref, bytes FROM checkpoints WHERE run_id = $run ORDER BY log_offset
"""

_HAPPENED: Final = """
SELECT epoch_ns(recorded_at) AS time_ns, 'seed transitioned' AS name,
    MAP {'esper.seed': seed_id, 'esper.from': from_stage, 'esper.to': to_stage, 'esper.blueprint': blueprint_id} AS said
FROM transitions WHERE run_id = $run
UNION ALL
SELECT epoch_ns(recorded_at), 'gate evaluated',
    MAP {'esper.seed': seed_id, 'esper.gate': gate, 'esper.passed': passed::VARCHAR, 'esper.reason': reason}
FROM gates WHERE run_id = $run
ORDER BY time_ns
"""


@dataclass(slots=True)
class Span:
    """A stretch of a run. `path` names it within its run, parents first; times are Unix nanoseconds."""

    path: tuple[str, ...]
    began_ns: int
    ended_ns: int
    service: str = TRAINER
    said: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The last part of its path, without the number that tells it from others."""
        return self.path[-1].partition("#")[0]


def spans_of(history: History, run: Taken) -> list[Span]:
    """The spans of a run, each after its parent, in the order of their beginning."""
    given = {"run": run.run_id}
    root = Span(("run",), run.started_ns, max(run.ended_ns, run.started_ns), said={"esper.task": run.task, **run.tags})
    spans, epochs = [root], list[Span]()
    answer = history.execute(_EPOCHS, given)
    names = [column[0] for column in answer.description]
    before: Mapping[str, Any] = {"incarnation": 1, "ended_ns": run.started_ns}
    for number, values in enumerate(answer.fetchall(), start=1):
        row = dict(zip(names, values, strict=True))
        made = list(_epoch(row, number, before))
        epochs.append(made[0])
        spans += made
        before = {"incarnation": row["incarnation"], "ended_ns": made[0].ended_ns}
    for number, (saved_ns, took_ms, reason, ref, size) in enumerate(history.execute(_CHECKPOINTS, given).fetchall()):
        parent = _holder(epochs, saved_ns) or root
        said = {"esper.reason": reason, "esper.ref": ref, "esper.bytes": size}
        spans.append(Span((*parent.path, f"checkpoint#{number}"), saved_ns - _ns(took_ms), saved_ns, said=said))
    for at_ns, name, said in history.execute(_HAPPENED, given).fetchall():
        holder = _holder(epochs, at_ns) or root
        holder.events.append((at_ns, name, {key: value for key, value in said.items() if value is not None}))
    root.ended_ns = max(each.ended_ns for each in spans)
    return sorted(spans, key=lambda each: (len(each.path), each.began_ns))


def _epoch(row: Mapping[str, Any], number: int, before: Mapping[str, Any]) -> Iterator[Span]:
    """The spans of one epoch, itself first. Where its telemetry was shed, the hook is a moment."""
    hook_ns = row["packet_ns"] - _ns(row["assembly_ms"])
    hook_end_ns = max(hook_ns + _ns(row["latency_ms"]), row["packet_ns"])
    trained_ns = _ns(1e3 * row["duration_s"])
    began_ns = before["ended_ns"] if before["incarnation"] == row["incarnation"] else hook_ns - trained_ns
    began_ns = min(began_ns, hook_ns)
    path = ("run", f"epoch {row['epoch']}#{number}")
    said = _said(row, "epoch", "step", "timeline", "training_loss", "probe_loss", "surviving")
    yield Span(path, began_ns, max(row["told_ns"] or 0, hook_end_ns), said=said)
    yield Span((*path, "training"), began_ns, min(began_ns + trained_ns, hook_ns))
    hook = (*path, "hook")
    yield Span(hook, hook_ns, hook_end_ns)
    if row["latency_ms"] is not None:
        place_ns = hook_ns
        for part in ("assembly", "decision", "command", "acknowledgement"):
            ends_ns = place_ns + _ns(row[f"{part}_ms"])
            yield Span((*hook, part), place_ns, ends_ns)
            place_ns = ends_ns
    if row["decided_ns"] is not None:
        said = _said(row, "chosen", "reason", "risk", "policy", "policy_version", "decision_id")
        parent = (*hook, "decision") if row["latency_ms"] is not None else hook
        began_ns = row["decided_ns"] - _ns(row["decider_ms"])
        yield Span((*parent, "decide"), began_ns, row["decided_ns"], DECIDER, said=said)


def _said(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {f"esper.{name}": row[name] for name in names}


def _holder(epochs: Sequence[Span], at_ns: int) -> Span | None:
    return next((each for each in epochs if each.began_ns <= at_ns <= each.ended_ns), None)


def _ns(milliseconds: float | None) -> int:
    return round(1e6 * (milliseconds or 0.0))
