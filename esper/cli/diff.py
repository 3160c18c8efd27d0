"""`esper diff A B`: where two histories part, what each did there, and what it changed in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.leyline.v1.event_pb2 import RunFinished, RunStarted
from esper.cli.events import headline_with_ids, stage
from esper.cli.history import history_of, resolve
from esper.cli.output import BOLD, DIM, GREEN, RED, cell, one_line, say, say_hanging, say_json, styled, table
from esper.errors import InvalidInput
from esper.karn.table import with_names
from esper.leyline.envelope import Event, body_name
from esper.leyline.json_text import configuration
from esper.leyline.objects import ObjectStore
from esper.metric import figures_of_test
from esper.record import RunState, accepted_facts
from esper.record.content import HOUSEKEEPING, Difference, differences, first_difference, tensor_digests
from esper.tolaria.config import filled
from projections.run_queries import decisions_of, run_ids
from streams.objects import object_store

if TYPE_CHECKING:
    from projections.history import History


DIFFERENT: Final = 1
NEXT: Final = 5
"""How many events each side shows from where they part."""
_OF_THE_MACHINE: Final = ("esper_version", "library_versions", "cpu_capability", "threads", "device", "machine")
_OF_THE_RUN: Final = ("control_of", "parent_run_id", "parent_sequence", "inherited", "fork_change", "weights_digest")
SHOWN_FIELDS: Final = 8
SHOWN_PARTS: Final = 4
_NAMES: Final = {
    "test_loss": "test loss",
    "probe_loss": "probe loss",
    "params": "parameters",
    "seeds_fossilized": "seeds kept",
    "flops": "FLOPs",
}

_OLD: Final = frozenset({"test_accuracy", "probe_accuracy"})
"""Keys of before there were metrics, which JSON keeps for one version."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs: what it was started with, every fact that counts, and the decisions between them."""

    started: RunStarted
    state: RunState
    facts: list[Event]
    story: list[Event]

    @property
    def finished(self) -> RunFinished | None:
        """How it ended; None for a run that has not."""
        return next((fact.run_finished for fact in reversed(self.facts) if fact.HasField("run_finished")), None)


def diff_command(data_dir: Path, word_a: str, word_b: str, *, as_json: bool) -> int:
    """Compare two runs; 0 where their histories say the same, 1 where they do not."""
    with history_of(data_dir) as history:
        known = run_ids(history)
        a, b = (side_of(history, resolve(word, known)) for word in (word_a, word_b))
    compared = compare(a, b, object_store(data_dir))
    if as_json:
        say_json(compared)
    else:
        show(compared)
    return 0 if compared["same"] else DIFFERENT


def side_of(history: History, run_id: str) -> Side:
    """One run out of the archive; raises InvalidInput where its history cannot be folded."""
    from projections.lineage import facts, lineage  # noqa: PLC0415 - as in `history_of`

    accepted = accepted_facts(facts(history, run_id))
    starts = {fact.run_id: fact.run_started for fact in accepted.facts if fact.HasField("run_started")}
    begun = starts.get(run_id)
    if begun is None:  # where a fork's start is what cannot be true, the facts are its parent's alone
        raise InvalidInput(f"run {run_id} cannot be folded: {accepted.state.problem}")
    decisions = decisions_of(history, [stretch.run_id for stretch in lineage(history, run_id)])
    return Side(begun, accepted.state, accepted.facts, list(_told(accepted.facts, decisions)))


def _told(facts: list[Event], decisions: list[Event]) -> Iterator[Event]:
    """The facts that change something, each decision behind the packet that it answers."""
    answers = {decision.decision_made.packet_id: decision for decision in decisions}
    for fact in facts:
        if body_name(fact) not in HOUSEKEEPING:
            yield fact
        if (decision := answers.get(fact.event_id)) is not None:
            yield decision


def compare(a: Side, b: Side, objects: ObjectStore) -> dict[str, Any]:
    """Everything that `esper diff` says, as JSON types."""
    parted = first_difference(a.story, b.story)
    state = _first_state(a.facts, b.facts, objects)
    return {
        "same": parted is None and state is None,
        "a": _about(a),
        "b": _about(b),
        "fork": _fork(a, b),
        "started_differently": [asdict(each) for each in settings(a.started, b.started)],
        "machine": [asdict(each) for each in machine(a.started, b.started)],
        "shared_events": len(a.story) if parted is None else parted,
        "parted": None if parted is None else _parting(a, b, parted),
        "first_state_that_differs": state,
        "end": {name: _pair(left, right) for name, (left, right) in _ends(a, b)},
        "metrics": _metrics(a, b),
        "seeds": _seeds(a.state, b.state),
    }


def _about(side: Side) -> dict[str, Any]:
    state = side.state
    return {
        "run_id": state.run_id,
        "task": state.task,
        "policy": state.policy,
        "status": state.status,
        "step": state.model.step,
        "epoch": state.model.epoch,
        "problem": None if state.problem is None else str(state.problem),
    }


def _fork(a: Side, b: Side) -> dict[str, Any] | None:
    """Which of the two is a fork of the other, and the last sequence that both have."""
    for child, parent in ((b, a), (a, b)):
        if child.started.parent_run_id and child.started.parent_run_id == parent.state.run_id:
            sequence = child.started.parent_sequence
            shared = next((fact for fact in parent.facts if fact.sequence == sequence), None)
            return {
                "child": child.state.run_id,
                "parent": parent.state.run_id,
                "sequence": sequence,
                "step": None if shared is None else shared.global_step,
            }
    return None


def _parting(a: Side, b: Side, place: int) -> dict[str, Any]:
    """The first event that the two do not share, and what each did from there."""
    left, right = a.story[place : place + NEXT], b.story[place : place + NEXT]
    both = bool(left and right) and body_name(left[0]) == body_name(right[0])
    fields = differences(left[0], right[0]) if both else []
    return {"fields": [asdict(each) for each in fields], "a": [_did(event) for event in left], "b": [*map(_did, right)]}


def _did(event: Event) -> dict[str, Any]:
    return {
        "type": body_name(event),
        "step": event.global_step,
        "epoch": event.epoch,
        "sequence": event.sequence or None,
        "what": headline_with_ids(event),
    }


def _first_state(a: list[Event], b: list[Event], objects: ObjectStore) -> dict[str, Any] | None:
    """The first recorded state that both have and that is not the same, which the facts need not show."""
    recorded = {_moment(fact): fact.state_digested for fact in b if fact.HasField("state_digested")}
    for fact in a:
        if not fact.HasField("state_digested"):
            continue
        digest, other = fact.state_digested, recorded.get(_moment(fact))
        if other is not None and other.root != digest.root:
            parts = tensor_digests(objects, digest.tensors_ref), tensor_digests(objects, other.tensors_ref)
            return {
                "step": fact.global_step,
                "epoch": fact.epoch,
                "a": digest.root.hex(),
                "b": other.root.hex(),
                "parts": sorted(name for name in {**parts[0], **parts[1]} if parts[0].get(name) != parts[1].get(name)),
            }
    return None


def _moment(fact: Event) -> tuple[int, int, str]:
    return fact.timeline, fact.global_step, fact.state_digested.occasion


def _ends(a: Side, b: Side) -> Iterator[tuple[str, tuple[Any, Any]]]:
    ends = [_end(side) for side in (a, b)]
    return ((name, (ends[0][name], ends[1][name])) for name in ends[0])


def _end(side: Side) -> dict[str, Any]:
    """What became of a run; of one that has not finished, as far as it came."""
    finished, model, status = side.finished, side.state.model, side.state.run_status
    return {
        "status": status.status,
        "epochs": model.epoch,
        "test_accuracy": None if finished is None else finished.test_accuracy,
        "test_loss": None if finished is None else finished.test_loss,
        "probe_accuracy": model.probe_accuracy,
        "probe_loss": model.probe_loss,
        "params": model.params if finished is None else finished.params_final,
        "seeds_fossilized": sum(stage(seed.stage) == "FOSSILIZED" for seed in model.seeds.values()),
        "flops": None if finished is None else finished.flops,
    }


def _metrics(a: Side, b: Side) -> dict[str, Any]:
    """Each metric that either was measured by, on the probe and the test set, by what it is called."""
    both = [dict(_measured(side)) for side in (a, b)]
    names = [*both[0], *(name for name in both[1] if name not in both[0])]
    return {name: _pair(both[0].get(name), both[1].get(name)) for name in names}


def _measured(side: Side) -> Iterator[tuple[str, float]]:
    finished = side.finished
    for on, figures in (
        ("test", [] if finished is None else figures_of_test(finished)),
        ("probe", side.state.model.metrics),
    ):
        yield from ((f"{on} {each.label}", each.value) for each in figures)


def _pair(a: Any, b: Any) -> dict[str, Any]:
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return {"a": a, "b": b, "difference": b - a if numbers else None}


def _seeds(a: RunState, b: RunState) -> list[dict[str, Any]]:
    rows = []
    for seed_id in [*a.seeds, *(seed for seed in b.seeds if seed not in a.seeds)]:
        pair = [state.seeds.get(seed_id) for state in (a, b)]
        told = [None if s is None else {"stage": stage(s.stage), "blueprint_id": s.blueprint_id or None} for s in pair]
        rows.append({"seed_id": seed_id, "a": told[0], "b": told[1], "same": told[0] == told[1]})
    return rows


def settings(a: RunStarted, b: RunStarted) -> Iterator[Difference]:
    """What the two were told to do differently."""
    left, right = _configuration(a), _configuration(b)
    for name in sorted({*left, *right}):
        if left.get(name) != right.get(name):
            yield Difference(name, left.get(name), right.get(name))


def _configuration(begun: RunStarted) -> dict[str, Any]:
    """Settings by name; the nested ones dotted."""
    config = filled(configuration(begun.config_json))
    named: dict[str, Any] = {
        "task": begun.task,
        "policy": begun.policy,
        "data": begun.data_fingerprint,
        "source": begun.task_source,
    }
    named |= {f"random.{stream}": seed for stream, seed in begun.seeds.items()}
    for name, value in config.items():
        if name in {*_OF_THE_MACHINE, *_OF_THE_RUN}:
            continue
        named |= (
            {f"{name}.{inner}": each for inner, each in value.items()} if isinstance(value, Mapping) else {name: value}
        )
    return named


def machine(a: RunStarted, b: RunStarted) -> Iterator[Difference]:
    """Where the two ran, as far as it can change a result."""
    for name in _OF_THE_MACHINE:
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, Mapping):
            left, right = dict(left), dict(right)
        if left != right:
            yield Difference(name, left, right)


def show(compared: Mapping[str, Any]) -> None:
    """Everything, the verdict last."""
    for name in ("a", "b"):
        about = compared[name]
        what = one_line(f"{about['task']}, policy {about['policy']}, {about['status']}")
        say(f"{styled(name.upper(), BOLD)}  run {about['run_id']}: {what}")
        if about["problem"]:
            say(styled(one_line(f"   its history stops where it cannot be true: {about['problem']}"), RED))
    _show_beginning(compared)
    if compared["parted"] is not None:
        _show_parting(compared)
    state = compared["first_state_that_differs"]
    if state is not None:
        parts = f", in {', '.join(state['parts'][:SHOWN_PARTS])}" if state["parts"] else ""
        more = len(state["parts"]) - SHOWN_PARTS
        where = f"step {state['step']}, epoch {state['epoch']}"
        tail = f" and {more} more" if more > 0 else ""
        say(f"\nthe first recorded state that differs is that of {where}{parts}{tail}")
    _show_end(compared)
    say()
    if compared["same"]:
        though = ", though they were started differently" if compared["started_differently"] else ""
        say(styled(f"the histories are the same{though}: {compared['shared_events']} events say the same", GREEN))
    else:
        say(styled("the histories differ", RED))


def _show_beginning(compared: Mapping[str, Any]) -> None:
    fork = compared["fork"]
    if fork is not None:
        at = "" if fork["step"] is None else f" (step {fork['step']})"
        say(f"\n{fork['child']} is a fork of {fork['parent']}: they share everything up to fact {fork['sequence']}{at}")
    for title, name in (("started differently", "started_differently"), ("on different machines", "machine")):
        if compared[name]:
            say(f"\n{title}:")
            say(table(("", "A", "B"), _rows(compared[name])))


def _show_parting(compared: Mapping[str, Any]) -> None:
    parted = compared["parted"]
    first = [side[0] for side in (parted["a"], parted["b"]) if side]
    where = min(first, key=lambda event: event["step"])
    say(f"\nthey share {compared['shared_events']} events and part at step {where['step']}, epoch {where['epoch']}:")
    for name in ("a", "b"):
        if not parted[name]:
            say(f"{styled(name.upper(), BOLD)}  ends there")
        for place, event in enumerate(parted[name]):
            mark = styled(name.upper(), BOLD) if place == 0 else " "
            where_text = styled(f"epoch {event['epoch']:>3} step {event['step']:>6}", DIM)
            say_hanging(f"{mark}  {where_text}  {event['type']:<20}  ", with_names(event["what"]))
    fields = parted["fields"]
    if fields:
        say(table(("what differs", "A", "B"), _rows(fields[:SHOWN_FIELDS])))
        if len(fields) > SHOWN_FIELDS:
            say(f"and {len(fields) - SHOWN_FIELDS} more fields; --json has them all")


def _show_end(compared: Mapping[str, Any]) -> None:
    say("\nin the end:")
    shown = {name: pair for name, pair in compared["end"].items() if name not in _OLD} | compared["metrics"]
    rows = [
        (one_line(_NAMES.get(name, name)), pair["a"], pair["b"], _signed(pair["difference"]))
        for name, pair in shown.items()
    ]
    say(table(("", "A", "B", "B - A"), rows, right=(1, 2, 3)))
    if compared["seeds"]:
        say()
        seeds = [(each["seed_id"], _seed(each["a"]), _seed(each["b"])) for each in compared["seeds"]]
        say(table(("seed", "A", "B"), seeds))


def _signed(value: float | None) -> str:
    return "" if not value else f"{'+' if value > 0 else ''}{cell(value)}"


def _seed(told: Mapping[str, Any] | None) -> str:
    return "-" if told is None else with_names(f"{told['stage']} {told['blueprint_id'] or ''}".strip())


def _rows(fields: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    return [(each["field"], _brief(each["a"]), _brief(each["b"])) for each in fields]


def _brief(value: Any) -> str:
    shown = with_names(cell(value))
    return shown if len(shown) <= 48 else shown[:45] + "..."
