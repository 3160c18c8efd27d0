"""Mission control in a real Chromium: whole at both widths, light and dark, by keyboard, asking nobody else."""

from __future__ import annotations

import re

import pytest

from tests.unit.cli.serve.browser import BROWSER, Browser
from tests.unit.cli.serve.conftest import running

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed here")

SHOWN = "document.querySelector('#picture-seeds .cursor') && document.querySelectorAll('#decisions tr').length"
OUTSIDE = """[...document.querySelectorAll('.esper-picture')].flatMap((picture) => {
  const box = picture.getBoundingClientRect();
  return [...picture.querySelectorAll('text')].filter((each) => {
    const found = each.getBoundingClientRect();
    return found.left < box.left - 1 || found.right > box.right + 1;
  }).map((each) => each.textContent);
})"""
STEP = "document.getElementById('at-told').textContent"


def test_it_is_whole_at_both_widths_light_and_dark_and_goes_back_in_time_by_keyboard(
    folder, tmp_path, monkeypatch, capfd
):
    with running(monkeypatch, "--data-dir", str(folder)), Browser(tmp_path / "profile") as browser:
        address = re.search(r"http\S+", capfd.readouterr().out)[0]
        browser.look(1440)
        browser.open(address)
        browser.until(SHOWN)
        seen = {}
        for width in (1440, 390):
            for dark in (False, True):
                browser.look(width, dark=dark)
                browser.until(f"{SHOWN} && Math.abs(run.pictures.width - room()) < 20")
                seen[width, dark] = browser.value(
                    "[document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor,"
                    f" {OUTSIDE}, document.querySelector('#picture-loss .line').getBoundingClientRect().width > 0]"
                )
        browser.look(1440)
        now = browser.value(STEP)
        browser.value("document.getElementById('at').focus()")
        browser.press("ArrowLeft", 37)
        browser.until(f"{STEP} !== {now!r}")
        back = browser.value(f"[{STEP}, document.getElementById('live').getAttribute('aria-pressed')]")
        state = browser.value("ask(`/api/runs/${chosen}/state?at=${run.then.step}`).then((then) => then.seeds)")
        told = browser.value("run.then.seeds")
        browser.value("document.getElementById('live').focus()")
        browser.press("Enter", 13)
        browser.until(f"{STEP} === {now!r}")
        first = browser.value("document.querySelectorAll('#runs a').length")
        before = browser.value("chosen")
        browser.value(f"[...document.querySelectorAll('#runs a')].find((a) => a.hash !== '#/{before}').focus()")
        browser.press("Enter", 13)
        named = "document.getElementById('run-id').textContent === chosen && location.hash === '#/' + chosen"
        browser.until(f"chosen !== '{before}' && {named} && {SHOWN} && run.run.run_id === chosen")
        other = browser.value(
            "[chosen, document.getElementById('run-id').textContent, location.hash, session !== null]"
        )
        asked, troubles = browser.asked(), browser.troubles()

    here = address.partition("#")[0]
    for (width, dark), (wide, ground, outside, drawn) in seen.items():
        assert (wide, outside, drawn) == (width, [], True)  # nothing sticks out
        assert ground == ("rgb(13, 18, 25)" if dark else "rgb(244, 246, 249)")
    assert back[0] != now
    assert back[1] == "false"
    assert state == told
    assert first == 4  # the control run is shown with its run
    assert other == [other[1], other[1], f"#/{other[0]}", True]
    assert {each[: len(here)] for each in asked} == {here}
    assert not any("token" in each for each in asked)
    assert troubles == []
