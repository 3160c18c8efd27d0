"""The comparison of two runs as a person reads it, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from esper.cli.output import BOLD, DIM, GREEN, RED, cell, say, say_hanging, styled, table

SHOWN_FIELDS: Final = 8
SHOWN_PARTS: Final = 4
_NAMES: Final = {
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
    "probe_accuracy": "probe accuracy",
    "probe_loss": "probe loss",
    "params": "parameters",
    "seeds_fossilized": "seeds kept",
    "flops": "FLOPs",
}


def show(compared: Mapping[str, Any]) -> None:
    """Everything, the verdict last."""
    for name in ("a", "b"):
        about = compared[name]
        what = f"{about['task']}, policy {about['policy']}, {about['status']}"
        say(f"{styled(name.upper(), BOLD)}  run {about['run_id']}: {what}")
        if about["problem"]:
            say(styled(f"   its history stops where it cannot be true: {about['problem']}", RED))
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
            say(
                table(
                    ("", "A", "B"), [(each["field"], _brief(each["a"]), _brief(each["b"])) for each in compared[name]]
                )
            )


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
            say_hanging(f"{mark}  {where_text}  {event['type']:<20}  ", event["what"])
    fields = parted["fields"]
    if fields:
        say(
            table(("what differs", "A", "B"), [(each["field"], each["a"], each["b"]) for each in fields[:SHOWN_FIELDS]])
        )
        if len(fields) > SHOWN_FIELDS:
            say(f"and {len(fields) - SHOWN_FIELDS} more fields; --json has them all")


def _show_end(compared: Mapping[str, Any]) -> None:
    say("\nin the end:")
    rows = [
        (_NAMES.get(name, name), pair["a"], pair["b"], _signed(pair["difference"]))
        for name, pair in compared["end"].items()
    ]
    say(table(("", "A", "B", "B - A"), rows, right=(1, 2, 3)))
    if compared["seeds"]:
        say()
        seeds = [(each["seed_id"], _seed(each["a"]), _seed(each["b"])) for each in compared["seeds"]]
        say(table(("seed", "A", "B"), seeds))


def _signed(value: float | None) -> str:
    return "" if not value else f"{'+' if value > 0 else ''}{cell(value)}"


def _seed(told: Mapping[str, Any] | None) -> str:
    return "-" if told is None else f"{told['stage']} {told['blueprint_id'] or ''}".strip()


def _rows(fields: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    return [(each["field"], _brief(each["a"]), _brief(each["b"])) for each in fields]


def _brief(value: Any) -> str:
    shown = cell(value)
    return shown if len(shown) <= 48 else shown[:45] + "..."
