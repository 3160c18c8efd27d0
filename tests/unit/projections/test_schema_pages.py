"""What is documented is what there is: every view and column has a meaning, and the committed pages are today's."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.errors import InvalidInput
from projections import open_sample, pages, questions, schema
from projections.views import VIEWS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def small():
    with open_sample() as history:
        yield history


@pytest.mark.parametrize("name", pages.PAGES)
def test_the_committed_page_is_what_the_code_gives(small, name):
    committed = (ROOT / "docs" / name).read_text("utf-8")

    assert pages.PAGES[name](small) == committed, "run `python -m projections.pages docs`"


def test_every_view_and_column_has_a_meaning(small):
    relations = schema.all_relations(small.connection)
    columns = [(relation.name, column) for relation in relations for column in relation.columns]

    assert len(relations) > 70
    assert [relation.name for relation in relations if not relation.meaning] == []
    assert [(name, column.name) for name, column in columns if not column.meaning] == []


def test_every_view_of_the_connection_is_documented(small):
    """A view that somebody adds is in the schema without anybody thinking of it."""
    small.connection.execute("create view a_new_view as select 1 as its_column")
    try:
        (found,) = [each for each in schema.all_relations(small.connection) if each.name == "a_new_view"]
    finally:
        small.connection.execute("drop view a_new_view")

    assert (found.meaning, [column.name for column in found.columns]) == ("", ["its_column"])
    assert found.columns[0].meaning == ""


def test_no_meaning_is_left_over(small):
    """What is explained exists: a column that was renamed leaves no old word behind."""
    relations = schema.all_relations(small.connection)
    known = {each.name.partition("(")[0]: {column.name for column in each.columns} for each in relations}
    every = set().union(*known.values())
    said = schema._said()
    own = [(view, name) for view, names in said.items() if view in known for name in names if name not in known[view]]

    assert own == []
    assert set(said) - {"any", "tables"} <= set(known)
    assert set(said["any"]) - every == set()
    assert {f"log.{table}" for table in said["tables"]} <= set(known)


@pytest.mark.parametrize(
    ("view", "column", "meaning", "unit"),
    [
        ("epochs", "probe_loss", "mean loss on the probe set", "nats"),
        ("epochs", "hook_ms_before", "how long the hook", "ms"),
        ("epochs", "flops", "spent so far", "FLOPs"),
        ("checkpoints", "bytes", "its size", "bytes"),
        ("run_finished", "flops", "spent on training, side passes and probes together", "FLOPs"),
        ("compile_finished", "eager_us", "one forward pass without compiling", "µs"),
        ("runs", "run_id", "the run", ""),
    ],
)
def test_meanings_and_units(view, column, meaning, unit):
    said = schema.of_column(view, column)

    assert said is not None
    assert said.text.startswith(meaning)
    assert said.unit == unit


def test_a_word_that_nobody_explained_has_no_meaning():
    assert schema.of_column("epochs", "no_such_column") is None
    assert schema.of_relation("no_such_view") is None


def test_a_view_is_found_with_and_without_its_schema(small):
    assert schema.find(small.connection, "seed_transitioned") == schema.find(small.connection, "log.seed_transitioned")
    with pytest.raises(InvalidInput, match="did you mean epochs"):
        schema.find(small.connection, "epoch")


def test_the_catalogue_of_the_database_takes_the_meanings(small):
    small.connection.execute(";\n".join(schema.comments(small.connection)))
    found = dict(
        small.connection.execute(
            "select column_name, comment from duckdb_columns() where table_name = 'epochs' and schema_name = 'main'"
        ).fetchall()
    )

    assert found["probe_loss"] == "mean loss on the probe set [nats]"
    assert None not in found.values()


def test_the_small_history_has_what_the_examples_need(small):
    tasks = small.execute("select task, policy from runs order by all").fetchall()
    counted = dict(small.execute("select body, count(*) from events group by body").fetchall())
    stages = {stage for (stage,) in small.execute("select distinct to_stage from transitions").fetchall()}

    assert tasks == [
        ("digits", "heuristic"),  # with a control run
        ("digits", "heuristic"),  # a fork of it
        ("digits", "none"),
        ("digits", "random"),
        ("spirals", "heuristic"),
    ]
    assert {"rolled_back", "command_rejected", "alert_fired", "field_report"} <= set(counted)
    assert {"FOSSILIZED", "CULLED"} <= stages
    assert small.damage == []
    assert set(VIEWS) <= {relation.name for relation in schema.all_relations(small.connection)}


def test_the_moves_that_decisions_brought_are_counted(small):
    """In a real run a move is caused by the applied command, not by the command."""
    rows = questions.ask(small, "03_from_decision_to_move").fetchall()
    (by_commands,) = small.execute(
        "select count(*) from transitions where causation_id in (select event_id from events where "
        "body = 'command_applied' and causation_id in (select event_id from commands where issued_by = 'tamiyo'))"
    ).fetchone()

    assert sum(moved for *_, moved in rows) == by_commands > 10
    assert {policy: moved > 0 for policy, _, _, _, moved in rows} == {"heuristic": True, "none": False, "random": True}
