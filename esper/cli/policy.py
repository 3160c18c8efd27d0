"""`esper policy`: versions out of the archive with nothing running; promoting and going back as signed events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.cli.history import history_of
from esper.cli.output import DIM, GREEN, RED, say, say_json, styled, table
from esper.errors import InvalidInput
from esper.leyline import ids
from esper.simic.versions import Version, Versions, fold
from projections.policy_queries import decided_by, observations, policy_events, reports_on
from streams.objects import object_store

if TYPE_CHECKING:
    from esper.leyline.envelope import Event
    from esper.leyline.objects import ObjectStore
    from esper.simic.staged import Stage
    from esper.tamiyo.policy import Policy
    from projections.history import History

_COLOURS: Final = {"live": GREEN, "staged": GREEN, "rejected": RED}


def list_command(data_dir: Path, archive: str | None, *, as_json: bool) -> None:
    """All versions, the newest first."""
    with history_of(data_dir, archive) as history:
        versions, decided = fold(policy_events(history)), decided_by(history)
    counts = {row["policy_version"]: row["decisions"] for row in decided if row["policy"] == "learned"}
    found = list(versions.by_name.values())[::-1]
    if as_json:
        say_json([_described(each) | {"decisions": counts.get(each.version, 0)} for each in found])
        return
    if not found:
        say("no policy was trained yet: `esper learn` trains one")
        return
    rows = [
        (
            each.version,
            styled(each.state, *_colours(each)),
            each.experiences,
            _gain(each),
            f"{sum(gate.passed for gate in each.gates)} of {len(each.gates)}" if each.gates else "not asked",
            counts.get(each.version, 0),
            each.rollbacks or "",
            each.by,
            each.reason,
        )
        for each in found
    ]
    headers = ("version", "state", "learnt from", "gain", "gates passed", "decisions", "left", "by", "why")
    say(table(headers, rows, right=(2, 3, 5, 6)))


def show_command(data_dir: Path, archive: str | None, word: str, *, as_json: bool) -> None:
    """One version in full."""
    with history_of(data_dir, archive) as history:
        versions = fold(policy_events(history))
        version = versions.find(word)
        stage = _staged(history, versions, version)
    if as_json:
        said = None if stage is None else {"runs": stage.runs, "successes": stage.successes, "verdict": stage.verdict}
        say_json(_described(version) | {"staged": said})
        return
    state = styled(version.state, *_colours(version))
    say(f"policy {version.version}: {state}  {styled(version.weights_ref, DIM)}")
    event_id = ids.text(version.trained_id)
    say(f"trained {_at(version.trained_at_ns)} on {version.experiences} experiences, event {event_id}")
    _say_promotions(version, stage)
    for process in version.loaded_by:
        say(f"{process} decides with it")
    for process, why in version.refused_by.items():
        say(f"{process} refused it: {why}")
    if version.gates:
        rows = [
            (gate.name, styled("passed", GREEN) if gate.passed else styled("failed", RED), gate.detail)
            for gate in version.gates
        ]
        say(table(("gate", "", "what it found"), rows))
    for title, content in (("made of", version.provenance), ("training", version.training)):
        if content:
            say(table((title, ""), sorted(content.items())))


def _staged(history: History, versions: Versions, version: Version) -> Stage | None:
    """What the runs of a staged version came to by now; None of one that is not staged."""
    from esper.simic.staged import Stage  # noqa: PLC0415

    stage = Stage.of(versions) if version.version == versions.staged else None
    if stage is not None:
        for event in reports_on(history, stage.version, stage.since_ns):
            stage.take(event)
    return stage


def _say_promotions(version: Version, stage: Stage | None) -> None:
    if version.promotions:
        often = "once" if version.promotions == 1 else f"{version.promotions} times"
        say(f"promoted {often}, last {_at(version.promoted_at_ns)} by {version.by}: {version.reason}")
    elif version.reason:
        say(f"why: {version.reason}")
    if stage is not None:
        say(f"{stage.verdict}: {stage}")
    if version.rollbacks:
        say(f"left {version.rollbacks} times for an earlier version")


def diff_command(data_dir: Path, archive: str | None, old: str, new: str, states: int, *, as_json: bool) -> int:
    """In which of the newest states two policies decide otherwise; 1 where they do."""
    from esper.simic.changes import compare  # noqa: PLC0415 - torch takes a second

    with history_of(data_dir, archive) as history:
        versions, store = fold(policy_events(history)), object_store(data_dir)
        both = [_policy(word, versions, store) for word in (old, new)]
        changes = compare(both[0], both[1], observations(history, store, states))
    if as_json:
        say_json(
            {
                "states": changes.states,
                "changed": changes.changed,
                "share": changes.share,
                "kinds": dict(changes.kinds.most_common()),
                "examples": [list(each) for each in changes.examples],
            }
        )
    elif not changes.states:
        say("the archive has no decision to make again")
    else:
        say(f"{new} decides otherwise than {old} in {changes.changed} of {changes.states} states ({changes.share:.1%})")
        for kind, count in changes.kinds.most_common():
            say(f"  {count:5d}  {kind}")
        for was, now in changes.examples:
            say(styled(f"  such as {was} -> {now}", DIM))
    return int(changes.changed > 0)


def _policy(word: str, versions: Versions, store: ObjectStore) -> Policy:
    from esper.tamiyo import policies  # noqa: PLC0415
    from esper.tamiyo.policies import learned  # noqa: PLC0415

    if word in policies.POLICIES and word not in versions.by_name:
        return policies.find(word)
    return learned.policy(versions.find(word).weights_ref, store)


def promote_command(data_dir: Path, word: str, *, by: str, why: str, share: float, as_json: bool) -> None:
    """Let a version decide; raises InvalidInput where its gates have not passed it, or its weights cannot be served."""
    from esper.simic.publication import promotion  # noqa: PLC0415

    def event(versions: Versions) -> Event:
        version = versions.find(word)
        return promotion(
            versions,
            version,
            by=by,
            reason=why,
            share=share,
            architecture=_architecture(version, data_dir),
            now_ns=time.time_ns(),
        )

    _say_promoted(_publish(data_dir, by, why, event), as_json=as_json)


def rollback_command(data_dir: Path, word: str | None, *, by: str, why: str, as_json: bool) -> None:
    """Go back to a version that was live; raises InvalidInput where there is none, or its weights cannot be served."""
    from esper.simic.publication import rollback  # noqa: PLC0415

    def event(versions: Versions) -> Event:
        to = versions.find(word) if word is not None else None
        made = rollback(versions, to, by=by, reason=why, architecture="", now_ns=time.time_ns())
        target = versions.by_name[made.policy_promoted.policy_version]
        made.policy_promoted.architecture = _architecture(target, data_dir)
        return made

    _say_promoted(_publish(data_dir, by, why, event), as_json=as_json)


def _architecture(version: Version, data_dir: Path) -> str:
    """Of weights that are in the object store and can be served; raises InvalidInput where they cannot."""
    from esper.tamiyo import weights  # noqa: PLC0415

    content = object_store(data_dir).get(version.weights_ref)
    weights.load(content)
    return str(weights.metadata(content)["architecture"])


def _publish(data_dir: Path, by: str, why: str, event: Callable[[Versions], Event]) -> Event:
    """Make the event of what the log says now, and publish it; raises InvalidInput where nobody says who and why."""
    from esper.cli.policy_log import publish  # noqa: PLC0415 - the clients of the log, for who writes

    if not by.strip() or not why.strip():
        raise InvalidInput("who does it and why is recorded: give --by and --why")
    (made,) = publish(data_dir, lambda versions: [event(versions)])
    return made


def _say_promoted(event: Event, *, as_json: bool) -> None:
    body = event.policy_promoted
    if as_json:
        say_json(
            {
                "policy_version": body.policy_version,
                "weights_ref": body.weights_ref,
                "share": body.share or 1.0,
                "rolled_back_from": body.rolled_back_from,
                "by": body.by,
                "reason": body.reason,
                "event_id": ids.text(event.event_id),
            }
        )
        return
    whose = f"{body.share:.0%} of new runs" if body.share else "all runs"
    left = f", and {body.rolled_back_from} no longer" if body.rolled_back_from else ""
    say(f"policy {body.policy_version} decides for {whose} from now on{left}  {styled(ids.text(event.event_id), DIM)}")


def _described(version: Version) -> dict[str, Any]:
    return {
        "version": version.version,
        "state": version.state,
        "weights_ref": version.weights_ref,
        "experiences": version.experiences,
        "trained_at_ns": version.trained_at_ns,
        "training": dict(version.training),
        "validation": dict(version.validation),
        "provenance": dict(version.provenance),
        "gates": [
            {"name": gate.name, "passed": gate.passed, "detail": gate.detail, "figures": dict(gate.figures)}
            for gate in version.gates
        ],
        "reason": version.reason,
        "by": version.by,
        "promoted_at_ns": version.promoted_at_ns,
        "promotions": version.promotions,
        "rollbacks": version.rollbacks,
        "loaded_by": list(version.loaded_by),
        "refused_by": dict(version.refused_by),
        "event_id": ids.text(version.trained_id),
    }


def _gain(version: Version) -> str:
    gain = version.validation.get("performance.gain")
    return "" if gain is None else f"{gain:+.4f}"


def _colours(version: Version) -> Iterator[str]:
    if version.state in _COLOURS:
        yield _COLOURS[version.state]


def _at(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
