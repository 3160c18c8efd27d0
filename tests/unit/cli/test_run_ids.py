"""A person names a run by its id, by the beginning of it, or as the last one."""

from __future__ import annotations

import pytest

from esper.cli.history import ALPHABET, control_of, grown_run, new_run_id, resolve, static_of
from esper.errors import InvalidInput

RUNS = ["k3f9x2qa-static", "k3f9x2qa-control", "k3f9x2qa", "k3aaaaaa", "b0000000", "b0000000-control"]


@pytest.mark.parametrize(
    ("word", "run_id"),
    [
        ("k3f9x2qa", "k3f9x2qa"),
        ("k3f", "k3f9x2qa"),
        ("k3f9x2qa-c", "k3f9x2qa-control"),
        ("k3f9x2qa-s", "k3f9x2qa-static"),
        ("b", "b0000000"),
        ("last", "k3f9x2qa"),
    ],
)
def test_resolves(word, run_id):
    assert resolve(word, RUNS) == run_id


@pytest.mark.parametrize(
    ("word", "runs", "says"),
    [
        ("", ["k3f9x2qa"], "there is no run ''"),
        ("k3", RUNS, r"'k3' begins 2 runs \(k3f9x2qa, k3aaaaaa\)"),
        ("zzz", RUNS, "there is no run 'zzz' in this data folder; `esper runs` lists them"),
        ("k3f9x2q1", RUNS, "did you mean k3f9x2qa"),
        ("lst", RUNS, "did you mean last"),
        ("last", [], "nothing was run in this data folder yet"),
    ],
)
def test_says_what_is_wrong_in_one_line(word, runs, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        resolve(word, runs)
    assert "\n" not in str(caught.value)


def test_new_ids_are_short_and_different():
    ids = {new_run_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(run_id) == 8 and set(run_id) <= set(ALPHABET) for run_id in ids)
    assert control_of("k3f9x2qa") == "k3f9x2qa-control"
    assert static_of("k3f9x2qa") == "k3f9x2qa-static"
    assert {grown_run(beside("k3f9x2qa")) for beside in (control_of, static_of, str)} == {"k3f9x2qa"}


@pytest.mark.parametrize("run_id", ["../../etc/x", "/tmp/x", "a b", "$(reboot)", "`reboot`", "x\x1b]0;", "-rf", ""])
def test_an_id_that_would_be_a_path_or_a_command_elsewhere_is_no_run(run_id):
    for word in ("last", run_id):
        with pytest.raises(InvalidInput) as caught:
            resolve(word, [run_id])

        assert "is not a name" in str(caught.value)
        assert str(caught.value).isprintable()
