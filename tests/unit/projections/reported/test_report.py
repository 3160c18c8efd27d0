"""The report: one page that says what the history says, needs nothing else, and is legible in a real browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from contracts.leyline.v1 import event_pb2 as pb
from esper.cli.app import dispatch
from esper.errors import InvalidInput
from esper.karn.table import with_names
from esper.leyline.envelope import new_event
from projections import open_history, questions
from projections.archive_writer import Archive
from projections.pictures import of_run
from projections.report import page
from projections.report.page import figure, outcome, seconds
from projections.testing import LogOfRecords, Trainers

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DASH = "\N{EN DASH}"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Nest(HTMLParser):
    """Reads a page strictly: every element is closed where it must be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.seen if name == tag]


def test_it_says_what_the_history_says(small, runs, grown):
    text = " ".join(" ".join(Nest(grown).text).split())
    (accuracy, params, control) = small.execute(
        "select run.test_accuracy, run.params_final, other.test_accuracy from runs as run "
        "join runs as other on other.control_of = run.run_id"
    ).fetchone()

    assert f"grew from 214 parameters to {params} and was right on {100 * accuracy:.2f}%" in text
    assert f"{100 * (accuracy - control):.2f} points better than its control run" in text
    assert f"control {100 * control:.2f} %" in text
    for (reason,) in small.execute(
        "select reason from decisions where run_id = ? and chosen <> 'nothing'", [runs["digits heuristic"]]
    ).fetchall():
        assert with_names(reason) in text
    assert text.count("passed") >= 10
    assert "esper run --task digits --epochs 40 --seed 0 --policy heuristic" in text


def test_commands_refused_gates_failed_and_rollbacks_are_told(small, runs):
    spirals = " ".join(page(small, runs["spirals heuristic"]).split())
    random = " ".join(page(small, runs["digits random"]).split())

    assert "<h2>Rollbacks and rewinds</h2>" in spirals
    assert "rejected: s3 is DORMANT and cannot become CULLED" in html.unescape(spirals)
    assert "rolled back" in spirals
    assert "There is no control run to compare with" in spirals
    assert "--no-control" in spirals
    assert re.search(r"G4 system impact</td>\s*<td><span class=\"bad\">failed</span>: contribution is", random)


def test_a_fork_stands_beside_its_parent(small, runs):
    text = html.unescape(" ".join(page(small, runs["digits fork"]).split()))

    assert f"it is {runs['digits heuristic']} up to step 280, and then did one thing otherwise: cull s1" in text
    assert f"esper fork {runs['digits heuristic']} --at 280 --do 'cull s1'" in text
    assert ">parent</text>" in text


def test_a_fork_is_drawn_with_what_it_has_from_its_parent(small, runs):
    """Its own events begin at the step; its picture begins where its parent began."""
    fork, parent = runs["digits fork"], runs["digits heuristic"]
    begins = [re.search(r' d="M([\d.]+) ', of_run.loss(small, {"x": run}).svg)[1] for run in (fork, parent)]
    own = small.execute("select min(epoch) from epochs where run_id = ?", [fork]).fetchone()

    assert begins[0] == begins[1]
    assert own[0] > 14
    assert "GERMINATED from epoch 7" in of_run.seeds(small, fork).svg
    assert "CULLED from epoch 14" in of_run.seeds(small, fork).svg
    assert "CULLED" not in of_run.seeds(small, parent).svg


def test_it_is_one_file_that_asks_for_nothing(grown):
    read = Nest(grown)
    addresses = [value for _, attributes in read.seen for name, value in attributes.items() if name in {"src", "href"}]

    assert read.open == []
    assert addresses == []
    assert {"script", "link", "iframe", "img"} & {tag for tag, _ in read.seen} == set()
    assert "url(" not in grown
    assert "@import" not in grown
    assert len(grown) < 200_000


def test_it_is_accessible(grown):
    """Pictures have titles and descriptions, tables captions and headers, and what scrolls can be reached by keys."""
    read = Nest(grown)
    ids = [attributes["id"] for _, attributes in read.seen if "id" in attributes]

    assert [each["lang"] for each in read.all("html")] == ["en"]
    assert len(ids) == len(set(ids))
    assert len(read.all("svg")) == 9
    for svg in read.all("svg"):
        assert svg["role"] == "img"
        assert set(svg["aria-labelledby"].split()) <= set(ids)
    assert len(read.all("table")) == len(read.all("caption"))
    assert all(each.get("tabindex") == "0" for each in read.all("div") if each.get("class") == "scroll")
    assert len(read.all("h1")) == 1


def test_words_of_a_run_are_no_markup(tmp_path):
    """A task is a person's own file name, and a reason whatever was said."""
    started = Trainers("evil").events[0]
    started.run_started.task = "<script>alert(1)</script>"
    started.run_started.config_json = json.dumps({"seed": "</code><b>"})
    started.run_started.sites[0].site = '"><script>'
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place([started]))
    with open_history(tmp_path / "archive") as history:
        text = page(history, "evil")

    assert "script" not in {tag for tag, _ in Nest(text).seen}
    assert "&lt;script&gt;alert(1)" in text
    assert "has not been tested: it is running after 0 epochs" in text
    assert "nothing was measured" in text


def test_a_run_without_its_start_is_said_to_have_none(tmp_path, capsys):
    body = new_event(
        pb.StateDigested(occasion="epoch"),
        event_id=bytes(15) + b"1",
        run_id="headless",
        producer="trainer",
        recorded_at_ns=1,
        sequence=7,
    )
    with Archive(tmp_path / "archive") as archive:
        archive.append(LogOfRecords().place([body]))
    with open_history(tmp_path / "archive") as history, pytest.raises(InvalidInput, match="and not its start"):
        page(history, "headless")


def test_the_command_writes_replaces_its_own_and_nothing_else(tmp_path, capsys, runs):
    folder, file = str(questions.folder()), tmp_path / "run.html"
    asked = ["report", runs["digits heuristic"], "--data-dir", folder, "--to", str(file)]

    assert dispatch(asked) == 0
    assert dispatch([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bytes"] == file.stat().st_size
    file.write_text("<html>my own page</html>")
    assert dispatch(asked) == 2
    assert "exists and is no report of Esper's" in capsys.readouterr().err
    assert dispatch([*asked[:-1], str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert dispatch([*asked[:-1], str(tmp_path / "no" / "such.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


FRAME = """<iframe style="border: 0" width="{width}" height="2000" srcdoc="{page}"></iframe>"""
MEASURE = """<!doctype html><meta charset="utf-8"><body>FRAMES<script>
const measured = (frame) => {
  const page = frame.contentDocument, view = page.defaultView;
  const shown = [...page.querySelectorAll("svg")].filter(each => each.getBoundingClientRect().width > 0);
  const texts = shown.flatMap(svg => [...svg.querySelectorAll("text")]);
  const heights = texts.map(each => each.getBoundingClientRect().height);
  const boxes = shown.map(svg => [...svg.querySelectorAll("text")].filter(each => {
    const text = each.getBoundingClientRect(), frame = svg.getBoundingClientRect();
    return text.left < frame.left - 1 || text.right > frame.right + 1 || text.bottom > frame.bottom + 1;
  }).map(each => each.textContent));
  return {
    width: page.documentElement.scrollWidth, pictures: shown.length, smallest: Math.min(...heights),
    outside: boxes.flat(), asked: view.performance.getEntriesByType("resource").length,
    title: page.title, ground: view.getComputedStyle(page.body).backgroundColor,
  };
};
window.onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(measured);
  document.body.innerHTML = "<pre>" + JSON.stringify(found).replaceAll("<", "&lt;") + "</pre>";
};
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed here")
@pytest.mark.parametrize("dark", [False, True])
def test_a_real_browser_shows_it_whole_and_legibly(tmp_path, small, runs, grown, dark):
    """Two reports at two widths each: the browser's start is what takes time."""
    texts = [html.escape(text, quote=True) for text in (grown, page(small, runs["spirals heuristic"]))]
    widths = (400, 1280)
    frames = "".join(FRAME.format(width=width, page=text) for text in texts for width in widths)
    (tmp_path / "measure.html").write_text(MEASURE.replace("FRAMES", frames), "utf-8")
    done = subprocess.run(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=10000",
            "--dump-dom",
            (tmp_path / "measure.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    told = json.loads(html.unescape(re.search(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)[1]))

    assert [each["width"] for each in told] == [*widths, *widths]  # nothing sticks out
    for found in told:
        assert found["pictures"] == 7  # seeds and network in the one form or in the other
        assert found["smallest"] >= 11.0  # pixels from the top of a line to its bottom
        assert found["outside"] == []
        assert found["asked"] == 0
        assert found["title"].startswith("Run ")
        assert found["ground"] == ("rgb(13, 18, 25)" if dark else "rgb(244, 246, 249)")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (214, "214"),
        (1_234_567, "1,234,567"),
        (1.04e10, "1.04 \N{MULTIPLICATION SIGN} 10¹⁰"),
        (0.09084, "0.09084"),
        (None, DASH),
        (float("nan"), DASH),
    ],
)
def test_figures_as_people_read_them(value, said):
    assert figure(value) == said


def test_durations_as_people_read_them():
    assert (seconds(27.57), seconds(125.2), seconds(None)) == ("27.6 s", "2 min 5 s", DASH)


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (("NEUTRAL", 0.0, 0), "neutral: the run ended before an epoch had passed"),
        (("SUCCESS", -0.125, 1), "success, probe loss -0.1250 in 1 epoch"),
        (("ABORTED", float("nan"), 3), "aborted in 3 epochs"),
    ],
)
def test_a_field_report_in_words(report, told):
    name, delta, epochs = report
    row = {"outcome": name, "metrics": {"loss_delta_total": delta}, "observation_window_epochs": epochs}
    assert outcome(row) == told


@pytest.mark.parametrize(
    ("config", "script", "line"),
    [
        ({"task": "my folder/mine.py:task", "seed": 3}, None, "esper run --task 'my folder/mine.py:task' --epochs 2"),
        ({"task": "digits", "rate_policy": "wsd"}, None, "--rate-policy wsd"),
        ({"task": "train"}, pb.Script(path="train.py", arguments=["--epochs", "3"]), "python train.py --epochs 3"),
    ],
)
def test_the_line_that_reproduces_a_run_is_one_that_works(tmp_path, config, script, line):
    started = pb.RunStarted(task="mine", policy="none", device="cpu", epochs=2, config_json=json.dumps(config))
    if script is not None:
        started.script.CopyFrom(script)
    event = new_event(started, event_id=bytes(16), run_id="aaaa", producer="trainer", recorded_at_ns=1, sequence=1)
    event.incarnation = event.timeline = 1
    with Archive(tmp_path) as archive:
        archive.append(LogOfRecords().place([event]))
    with open_history(tmp_path) as history:
        assert line in html.unescape(page(history, "aaaa"))


def test_a_run_that_is_measured_by_its_loss_is_not_told_of_it_twice(tmp_path):
    started = pb.RunStarted(
        task="mine", policy="none", device="cpu", epochs=2, config_json=json.dumps({"task": "mine"})
    )
    started.metrics.add(name="loss", lower_is_better=True)
    event = new_event(started, event_id=bytes(16), run_id="aaaa", producer="trainer", recorded_at_ns=1, sequence=1)
    event.incarnation = event.timeline = 1
    with Archive(tmp_path) as archive:
        archive.append(LogOfRecords().place([event]))
    with open_history(tmp_path) as history:
        headings = re.findall("<h2>(.*?)</h2>|class=.name.>(Test.*?)</div>", page(history, "aaaa"))

    assert [each for pair in headings for each in pair if "oss" in each] == ["Test loss", "Loss"]
