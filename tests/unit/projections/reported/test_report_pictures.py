"""The pictures of the report go where their figures say."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from projections import open_history
from projections.archive_writer import Archive
from projections.pictures import of_run
from projections.pictures.charts import Bar, Lane, Mark, Series, Stay, bars, lines, swimlane
from projections.pictures.network import Growth, Place, network
from projections.pictures.svg import ticks
from projections.testing import LogOfRecords, Trainers


def drawn(picture):
    """The picture as XML: it is well formed."""
    return ET.fromstring(picture.svg)


def test_curves_go_where_their_figures_say():
    picture = lines([Series("a", [(0, 0.0), (10, 1.0)]), Series("b", [(0, None), (10, float("nan"))])], title="T")
    (path, _) = drawn(picture).iter("{http://www.w3.org/2000/svg}path")
    (x0, y0, x1, y1) = map(float, re.findall(r"[\d.]+", path.get("d")))

    assert x0 < x1
    assert y0 > y1  # up is more
    assert "a: 1 at 10" in picture.svg


def test_a_gap_in_a_curve_stays_one():
    picture = lines([Series("a", [(0, 1.0), (1, 2.0), (2, None), (3, 1.5), (4, 1.0)])], title="T")

    assert picture.svg.count("M") == 2


def test_nothing_measured_is_said():
    assert "nothing was measured" in lines([Series("a", [])], title="T", marks=[Mark(1, "x")]).svg


def test_a_lane_ends_where_its_run_has_come(tmp_path):
    """A run that was killed in epoch 2 of 20 is drawn over 20 epochs, and its seed trained for one of them."""
    run = Trainers("killed")
    run.events[0].run_started.epochs, run.events[0].run_started.steps_per_epoch = 20, 10
    run.complete_epoch(0)
    run.move(0, 0, 0)
    run.complete_epoch(0)
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place(run.events))
    with open_history(tmp_path / "archive") as history:
        picture = of_run.seeds(history, "killed")

    assert "GERMINATED, epochs 1 to 2" in picture.svg
    assert ">20</text>" in picture.svg


def test_lanes_are_as_long_as_the_stays():
    stays = [Stay("TRAINING", 2, 4), Stay("FOSSILIZED", 4, 10, "helped")]
    picture = swimlane([Lane("s1", "layer", stays), Lane("s2", "other", [])], epochs=10, marks=[Mark(5, "rewound")])
    widths = {
        each.get("fill"): float(each.get("width"))
        for each in drawn(picture).iter("{http://www.w3.org/2000/svg}rect")
        if float(each.get("height")) > 20
    }

    assert widths["var(--fossilized)"] == pytest.approx(3 * widths["var(--training)"], abs=0.1)
    assert widths["var(--dormant)"] == pytest.approx(5 * widths["var(--training)"], abs=0.1)
    assert "TRAINING from epoch 2, FOSSILIZED from epoch 4" in picture.svg
    assert "s2 other: never germinated" in picture.svg
    assert "epochs 4 to 10: helped" in picture.svg
    assert "<title>rewound</title>" in picture.svg


def test_bars_lie_on_their_side_of_zero():
    picture = bars([Bar("up", 2.0, 1.0, 3.0, "n 3"), Bar("down", -1.0)], title="T", x_name="x")
    up, down = (float(each.get("width")) for each in drawn(picture).iter("{http://www.w3.org/2000/svg}rect"))

    assert up == pytest.approx(2 * down, abs=0.1)
    assert picture.svg.count("<title>") == 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.3, 40, [10, 20, 30, 40]), (5, 5, [5]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high, 5) == pytest.approx(expected)


def test_ticks_are_not_closer_than_they_may_be():
    assert ticks(11, 12, 6, least=1) == [11, 12]


def test_every_picture_of_every_run_is_well_formed(small, runs):
    for run_id in runs.values():
        for draw in (of_run.metric, of_run.loss, of_run.parameters, of_run.flops):
            drawn(draw(small, {"run": run_id}))
        drawn(of_run.seeds(small, run_id))
        drawn(of_run.alphas(small, run_id))


def rectangles(picture) -> list[tuple[float, float, float, float]]:
    """The boxes of a picture: x, y, width, height."""
    found = drawn(picture).iter("{http://www.w3.org/2000/svg}rect")
    return [tuple(float(each.get(name)) for name in ("x", "y", "width", "height")) for each in found]


@pytest.mark.parametrize("width", [1040, 390])
def test_the_network_shows_what_grew_at_each_place(width):
    grown = [Growth("s1 BP009", "660 parameters", "FOSSILIZED", True), Growth("s4 BP001", "rewound", "CULLED", False)]
    places = [
        Place("stem", "image 4", grown),
        Place("a.very.long.name.of.a.layer.that.fits.nowhere" * 3, "vector 8", []),
    ]
    picture = network(places, first="input", last="output", width=width)
    boxes = rectangles(picture)

    assert "stem, image 4: s1 BP009 (660 parameters), s4 BP001 (rewound)." in picture.svg
    assert "nothing grew" in picture.svg
    assert all(x >= 0 and x + wide <= width for x, _, wide, _ in boxes)
    ends = [(y, y + high) for _, y, wide, high in boxes if wide > 6]
    if width == 390:  # all below each other, and none in another's way
        assert all(first[1] <= second[0] for first, second in pairwise(ends))


def test_words_of_marks_that_stand_close_do_not_collide():
    marks = [Mark(1.0, "rolled back"), Mark(1.1, "rewound"), Mark(9.0, "rewound")]
    picture = swimlane([Lane("s1", "site", [])], epochs=10, marks=marks)
    texts = [each.text for each in drawn(picture).iter("{http://www.w3.org/2000/svg}text")]

    assert texts.count("rewound") == 1
    assert picture.svg.count("<title>rewound</title>") == 2


def test_a_legend_that_is_too_long_has_rows():
    picture = lines([Series(f"a curve of number {n}", [(0, 1.0)]) for n in range(6)], title="T", width=390)
    rows = {float(each.get("y")) for each in drawn(picture).iter("{http://www.w3.org/2000/svg}text")
            if (each.text or "").startswith("a curve")}  # fmt: skip

    assert len(rows) > 2
