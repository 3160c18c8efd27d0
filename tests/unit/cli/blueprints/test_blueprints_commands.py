"""`esper blueprints`: every command is documented, wrong input is one line, and what reads starts fast."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from esper.cli.app import dispatch
from esper.cli.blueprints.catalogue import parse_shape
from esper.cli.commands.blueprints import blueprints_app as app
from esper.errors import InvalidInput

COMMANDS = ("list", "show", "compile", "approve", "history")


def test_every_command_is_tested_here():
    assert sorted(command.name or command.callback.__name__ for command in app.registered_commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_the_shared_options(capsys, command):
    assert dispatch(["blueprints", command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Example: esper blueprints {command}" in " ".join(text.split())
    assert "--data-dir" in text
    assert "--json" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["list", "--tier", "danger"], "'danger' is not one of 'safe', 'experimental', 'high-risk'"),
        (["list", "--stage", "9"], "less than or equal to 6"),
        (["list", "--tag", "norms"], "no blueprint has the tag 'norms'; did you mean norm?"),
        (["list", "--measure", "0x8"], "shape '0x8' is none of a site"),
        (["show"], "Missing argument 'ID'"),
        (["show", "BP999"], "there is no blueprint 'BP999'; did you mean"),
        (["show", "residul_block"], "did you mean BP009 residual_block"),
        (["show", "BP007", "--shape", "8"], "pooling_max (BP007) does not serve a vector site; it serves image, token"),
        (["show", "BP009", "--shape", "1x2x3x4"], "write 32 for a vector"),
        (["history", "BP51"], "there is no blueprint 'BP51'"),
        (["approve", "BP009", "--by", "ada", "--why", "x"], "BP009 residual_block is safe and needs no approval"),
        (["approve", "BP39", "--by", "ada", "--why", "x"], "did you mean BP039 neural_ode_block"),
        (["approve", "BP039", "--by", " ", "--why", "x"], "must say by whom ('') and why"),
        (["approve", "BP039", "--by", "ada", "--why", ""], "must say by whom ('ada') and why ('')"),
        (["approve", "BP039", "--why", "x"], "Missing option '--by'"),
        (["compile", "BP043"], "BP043 exploding_gradient is for quarantine drills only and is never compiled"),
        (["compile", "--tier", "high-risk"], "is for quarantine drills only and is never compiled"),
        (
            ["compile", "BP031", "--shape", "8"],
            "temporal_conv (BP031) serves token sites, and asked for are vector only",
        ),
        (["compile", "--pipeline", "slow"], "'slow' is not one of 'standard', 'fast', 'emergency'"),
        (["compile", "--task", "nonsense"], "task 'nonsense' is unknown"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2_and_starts_nothing(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert dispatch(["blueprints", *arguments]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "x", "8x", "-8", "1x2x3x4", "0", "8.5", "axb"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(InvalidInput, match="is none of a site"):
        parse_shape(text)


@pytest.mark.parametrize("arguments", [["list"], ["history", "BP009"], ["approve", "BP001", "--by", "a", "--why", "b"]])
def test_starts_within_half_a_second_without_torch(folder, arguments):
    """Counted in processor time, which does not depend on what else the machine does."""
    program = (
        "import sys\nfrom esper.cli.app import dispatch\n"
        "dispatch(['blueprints', *sys.argv[1:]])\nassert 'torch' not in sys.modules"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", program, *arguments, "--data-dir", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 1.0
