"""Lines where there is no terminal, a panel where there is one."""

from __future__ import annotations

from rich.console import Console

from esper.cli.run_view import RunView
from esper.cli.screen import Lines, Panel


def _play(screen, view, story):
    for event in story:
        view.apply(event)
        screen.show(view, event)


def test_lines_tell_epochs_decisions_to_act_and_transitions(story, capsys):
    view = RunView("k3f9x2qa")
    screen = Lines([view], quiet=False)
    screen.note("starting")
    screen.note("starting")
    _play(screen, view, story)
    assert capsys.readouterr().out.splitlines() == [
        "starting",
        "grown    epoch 1/2  loss 0.5000, probe loss 0.6000, probe accuracy 70.00 %",
        "grown      decision: germinate s1 residual_block (BP009): the loss stalls",
        "grown      seed: s1 DORMANT -> GERMINATED, residual_block (BP009)",
        "grown      gate: s1 G1 gradient health failed: no gradient [norm 0 (limit 0.01)]",
        "grown      seed: s1 GERMINATED -> CULLED, residual_block (BP009): G1 failed",
        "grown      seed: s1 CULLED -> EMBARGOED",
        "grown    epoch 2/2  loss 0.4000, probe loss 0.5000, probe accuracy 80.00 %; s1 EMBARGOED",
        "grown      run: completed: test accuracy 75.00 %, 100 parameters",
    ]


def test_quiet_lines_leave_stdout_to_the_json_object(story, capsys):
    view = RunView("k3f9x2qa")
    _play(Lines([view], quiet=True), view, story)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "epoch 2/2" in captured.err


def test_panel_shows_progress_seeds_and_the_last_decisions(story):
    views = [RunView("k3f9x2qa"), RunView("k3f9x2qa-control")]
    panel = Panel("esper run k3f9x2qa", views)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(panel.draw(0.0))  # before anything is known
        for event in story[:8]:
            views[0].apply(event)
        panel.note("log 127.0.0.1:1234")
        console.print(panel.draw(12.4))
    text = console.export_text()
    assert "12 s" in text
    assert "1/2" in text
    assert "layer1" in text
    assert "CULLED" in text
    assert "epoch  1  germinate s1 residual_block (BP009): the loss stalls" in text
    assert "log 127.0.0.1:1234" in text
