"""`esper blueprints list`: the catalogue, what is approved and stored, and, where asked, costs and outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from esper.cli.history import history_of
from esper.cli.output import DIM, say, say_json, styled, table
from esper.errors import InvalidInput
from esper.karn.blueprint import ALL_KINDS, Blueprint, Setting, ShapeKind, SiteShape
from esper.karn.table import CATALOGUE
from esper.leyline.names import meant
from projections import blueprint_queries, open_history

if TYPE_CHECKING:
    from projections.history import History


KINDS: Final[dict[int, ShapeKind]] = {1: "vector", 2: "token", 3: "image"}
USUAL: Final[dict[ShapeKind, tuple[int, ...]]] = {"vector": (32,), "token": (16, 32), "image": (16, 8, 8)}
"""A site of each kind as the small tasks have them: what stands for a kind where nobody names a shape."""
Row = dict[str, Any]
WAY_TO_APPROVAL: Final = "esper blueprints approve {} --by YOU --why REASON"
HEADERS: Final[tuple[str, ...]] = (
    "name",
    "id",
    "kind",
    "tier",
    "stage",
    "risk",
    "parameters",
    "shapes",
    "approval",
    "stored",
)
COST_HEADERS: Final = ("weights", "FLOPs")
OUTCOME_HEADERS: Final = (
    *("name", "id", "site", "germinated", "fossilized", "culled", "weights", "FLOPs"),
    *("loss change", "gain over control"),
)


def parse_shape(text: str) -> SiteShape:
    """The site shape that `text` means; raises InvalidInput for one that no site can have."""
    sizes = [int(part) if part.isdecimal() else 0 for part in text.lower().split("x")]
    if len(sizes) not in KINDS or min(sizes) < 1:
        raise InvalidInput(
            f"shape {text!r} is none of a site: write 32 for a vector, 16x32 for tokens x features, 16x8x8 for an image"
        )
    return SiteShape(KINDS[len(sizes)], tuple(sizes))


def shape_text(shape: Sequence[int]) -> str:
    """The sizes as `parse_shape` reads them."""
    return "x".join(str(size) for size in shape)


def task_sites(name: str) -> list[SiteShape]:
    """The distinct shapes of the sites of a task's host; raises InvalidInput for a task that does not exist."""
    from esper.karn.catalogue import site_shape  # noqa: PLC0415 - torch, and the task's data
    from esper.kasmina.sites import describe_sites  # noqa: PLC0415
    from esper.tolaria.tasks import load_task  # noqa: PLC0415

    task = load_task(name)
    sites = [site for site in task.sites if site.axis == "depth"]  # nothing is compiled for a layer that widens
    described = describe_sites(task.make_host(), sites, task.train.head(2).inputs, lambda _site: [])
    return list(dict.fromkeys(site_shape(site) for site in described))


@contextmanager
def known_of(data_dir: Path) -> Iterator[History]:
    """The data folder's history, an empty one where it has none: the catalogue is there before any run."""
    if (data_dir / "archive").is_dir():
        with history_of(data_dir) as history:
            yield history
    else:
        with open_history(data_dir / "archive") as history:
            yield history


def standing(blueprint: Blueprint, approval: Row | None) -> str:
    """Whether a blueprint may be used, in a few words."""
    approved = approval is not None and approval["approved"]
    if blueprint.quarantine_only:
        return "drill only, approved" if approved else "drill only"
    if not blueprint.approval_required:
        return "not needed"
    return f"by {approval['said_by']}" if approved and approval is not None else "needed"


def facts_json(blueprint: Blueprint, approval: Row | None) -> Row:
    """A blueprint's facts and its approval as JSON types."""
    return {
        "blueprint_id": blueprint.blueprint_id,
        "name": blueprint.name,
        "description": blueprint.description,
        "kind": list(blueprint.tags),
        "tier": blueprint.tier.replace("_", "-"),
        "stage": blueprint.stage,
        "risk": blueprint.risk,
        "parameters": {
            each.name: {"min": each.minimum, "max": each.maximum, "default": each.default, "integer": each.integer}
            for each in blueprint.settings
        },
        "shapes": list(blueprint.kinds),
        "approval_required": blueprint.approval_required,
        "quarantine_only": blueprint.quarantine_only,
        "approval": approval,
    }


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which blueprints a person wants to see, and what of them. `measure` is a site shape to measure costs at."""

    tier: str | None = None
    stage: int | None = None
    kind: str | None = None
    tag: str | None = None
    stored: bool = False
    outcomes: bool = False
    measure: str | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of blueprints, each by its id."""

    approvals: dict[str, Row]
    artifacts: dict[str, list[Row]]
    outcomes: dict[str, list[Row]]
    costs: dict[str, Row]


def list_command(data_dir: Path, wanted: Wanted, *, as_json: bool) -> None:
    """Show the catalogue's blueprints that are wanted."""
    chosen = choose(wanted)
    costs = _costs(chosen, wanted.measure) if wanted.measure is not None else {}
    with known_of(data_dir) as history:
        outcomes = blueprint_queries.outcomes(history) if wanted.outcomes else {}
        findings = Findings(blueprint_queries.approvals(history), blueprint_queries.artifacts(history), outcomes, costs)
    if wanted.stored:
        chosen = [each for each in chosen if each.blueprint_id in findings.artifacts]
    if as_json:
        say_json([_json(each, wanted, findings) for each in chosen])
    elif wanted.outcomes:
        _say_outcomes(chosen, outcomes)
    else:
        _say_catalogue(chosen, wanted, findings)


def choose(wanted: Wanted) -> list[Blueprint]:
    """The blueprints that answer every question, in order of ids; raises InvalidInput for a tag that none has."""
    tags = {tag for each in CATALOGUE.values() for tag in each.tags}
    if wanted.tag is not None and wanted.tag.casefold() not in tags:
        hint = meant(wanted.tag.casefold(), tags, f"the tags are {', '.join(sorted(tags))}")
        raise InvalidInput(f"no blueprint has the tag {wanted.tag!r}; {hint}")
    return [
        each
        for each in CATALOGUE.values()
        if wanted.tier in (None, each.tier.replace("_", "-"))
        and wanted.stage in (None, each.stage)
        and (wanted.kind is None or wanted.kind in each.kinds)
        and (wanted.tag is None or wanted.tag.casefold() in each.tags)
    ]


def setting_text(setting: Setting) -> str:
    """A parameter with its bounds and, in brackets, its default."""
    return f"{setting.name} {setting.minimum:g}..{setting.maximum:g} ({setting.default:g})"


def _costs(chosen: Sequence[Blueprint], shape: str) -> dict[str, Row]:
    """Weights and FLOPs of those that serve the shape, measured on their modules."""
    site = parse_shape(shape)
    from esper.karn.catalogue import measure  # noqa: PLC0415 - torch, which nothing else here needs

    found = {}
    for each in chosen:
        if site.kind in each.kinds:
            cost = measure(each.blueprint_id, site)
            found[each.blueprint_id] = {"parameters": cost.parameters, "flops_per_sample": cost.flops_per_sample}
    return found


def _say_catalogue(chosen: Sequence[Blueprint], wanted: Wanted, findings: Findings) -> None:
    if not chosen:
        say("no blueprint is like that" + ("; `esper blueprints compile` stores some" if wanted.stored else ""))
        return
    headers, rows = HEADERS, [_row(each, findings) for each in chosen]
    if wanted.measure is not None:
        headers = (*headers, *COST_HEADERS)
        rows = [(*row, *_cost_cells(findings.costs.get(row[1]))) for row in rows]
    say(table(headers, rows, right=(4, 5, 10, 11)))
    say(styled(f"\n{len(chosen)} of {len(CATALOGUE)} blueprints; `esper blueprints show ID` has one in full", DIM))


def _row(each: Blueprint, findings: Findings) -> tuple[Any, ...]:
    return (
        each.name,
        each.blueprint_id,
        " ".join(each.tags),
        each.tier.replace("_", "-"),
        each.stage,
        f"{each.risk:.1f}",
        ", ".join(setting_text(setting) for setting in each.settings) or "-",
        "all" if each.kinds == ALL_KINDS else ",".join(each.kinds),
        standing(each, findings.approvals.get(each.blueprint_id)),
        _stored(findings.artifacts.get(each.blueprint_id, [])),
    )


def _stored(versions: Sequence[Row]) -> str:
    """How many versions are stored, and how many of them are served compiled."""
    if not versions:
        return "-"
    compiled = sum(version["form"] == "compiled" for version in versions)
    return f"{len(versions)}" + (f" ({compiled} compiled)" if compiled else "")


def _cost_cells(cost: Row | None) -> tuple[str, str]:
    return ("-", "-") if cost is None else (f"{cost['parameters']:,}", f"{cost['flops_per_sample']:,}")


def _say_outcomes(chosen: Sequence[Blueprint], outcomes: dict[str, list[Row]]) -> None:
    """The blueprints that grew, those that gained the most first."""
    rows = [(each, row) for each in chosen for row in outcomes.get(each.blueprint_id, [])]
    if not rows:
        say("none of these has grown in this data folder yet; start with `esper run`")
        return
    rows.sort(key=lambda pair: (-(pair[1]["mean_gain"] or 0.0), -pair[1]["fossilized"], pair[0].blueprint_id))
    cells = [(each.name, each.blueprint_id, *outcome_cells(row)) for each, row in rows]
    say(table(OUTCOME_HEADERS, cells, right=(3, 4, 5, 6, 7)))
    say(styled("\nmeans of the probe loss with their 95 % interval; a gain above zero is what the control lacks", DIM))


def outcome_cells(row: Row) -> tuple[Any, ...]:
    """Site, germinated, fossilised, culled, cost, the loss's change and the gain over the control, for a table."""
    return (
        f"{row['shape_kind']} {shape_text(row['shape'])}",
        row["germinated"],
        row["fossilized"],
        row["culled"],
        "-" if row["parameters"] is None else f"{row['parameters']:,}",
        "-" if row["flops_per_sample"] is None else f"{row['flops_per_sample']:,}",
        _mean(row, "delta", row["measured"]),
        _mean(row, "gain", row["compared"]),
    )


def _mean(row: Row, name: str, count: int) -> str:
    if row[f"mean_{name}"] is None:
        return "-"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = f" [{low:+.3f}, {high:+.3f}]" if low is not None else ""
    return f"{row[f'mean_{name}']:+.3f}{interval} n={count}"


def _json(each: Blueprint, wanted: Wanted, findings: Findings) -> Row:
    name = each.blueprint_id
    found = {**facts_json(each, findings.approvals.get(name)), "stored": findings.artifacts.get(name, [])}
    if wanted.measure is not None:
        found["cost"] = findings.costs.get(name)
    if wanted.outcomes:
        found["outcomes"] = findings.outcomes.get(name, [])
    return found
