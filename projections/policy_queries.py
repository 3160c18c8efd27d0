"""What is asked of a history about policies: all that was ever said of their versions, and what decided where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from contracts.topics import POLICIES
from esper.leyline import envelope
from esper.leyline.envelope import Event
from esper.leyline.objects import ObjectStore
from projections.run_queries import rows

if TYPE_CHECKING:
    from projections.history import History


def policy_events(history: History) -> list[Event]:
    """Every event about a policy, each once, in the order of the log; one policy's all lie on one partition."""
    parts = [
        f'SELECT log_raw, log_partition, log_offset, event_id FROM log."{name}"'  # noqa: S608  names of ours
        for name in POLICIES.bodies
    ]
    once = f"SELECT DISTINCT ON (event_id) * FROM ({' UNION ALL '.join(parts)}) ORDER BY log_offset"  # noqa: S608
    found = history.cursor(f"SELECT log_raw FROM ({once}) ORDER BY log_partition, log_offset").fetchall()  # noqa: S608
    return [envelope.parse(raw) for (raw,) in found]


def observations(history: History, objects: ObjectStore, most: int) -> Iterator[bytes]:
    """What the newest decisions saw, the newest first, `most` of them; raises as `ObjectStore.get` does."""
    query = "SELECT observation, observation_ref FROM log.decision_made ORDER BY recorded_at_ns DESC, log_offset DESC"
    for observation, reference in history.cursor(f"{query} LIMIT ?", [most]).fetchall():
        yield bytes(observation or b"") or objects.get(reference)


def reports_on(history: History, policy_version: str, since_ns: int) -> list[Event]:
    """The field reports on decisions of one version since a time (Unix ns), each event as often as the log has it."""
    query = "SELECT log_raw FROM log.field_report WHERE tamiyo_policy_version = ? AND recorded_at_ns >= ?"
    return [envelope.parse(raw) for (raw,) in history.cursor(query, [policy_version, since_ns]).fetchall()]


def decided_by(history: History) -> list[dict[str, Any]]:
    """How many decisions each version of each policy has made, in how many runs, the most first."""
    return rows(
        history,
        "SELECT policy, policy_version, count(*) AS decisions, count(DISTINCT run_id) AS runs "
        "FROM log.decision_made GROUP BY ALL ORDER BY decisions DESC, policy, policy_version",
    )


def experience_rows(history: History) -> list[dict[str, Any]]:
    """The view `experience` over what is archived, by run and in order: what Simic's intake takes."""
    from projections.registry import PROJECTIONS, follow  # noqa: PLC0415 - for who learns
    from projections.store import Store  # noqa: PLC0415

    with Store(PROJECTIONS["experience"], None, None) as store:
        follow(store, history, lambda _done, _of: None)
        found = store.cursor().execute("SELECT * FROM experience ORDER BY run_id, sequence")
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
