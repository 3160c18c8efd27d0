"""What a person's task has wrong is told before anything starts, with the line of their file that it is about."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from esper.errors import InvalidInput
from esper.tolaria.dry_run import dry_run, explained, try_task
from esper.tolaria.own_code import Place, caller, check_function, defined_at
from esper.tolaria.tasks import load_task
from esper.tolaria.tasks.task import Task

FILE = """\
import numpy as np
import torch
from torch import nn
from esper.tolaria.tasks import Site, Task

def net():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, {classes}))

def task():
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    y = (x.sum(1) > 0).long()
    {prepare}
    return Task.from_samples(
        "mine",
        make_host={make_host},
        sites={sites},
        inputs={inputs},
        targets={targets},
        per_sample_loss={loss},
        per_sample_accuracy={accuracy},
    )
"""
HEALTHY = {
    "classes": "2",
    "prepare": "pass",
    "make_host": "net",
    "sites": "(Site('1', 'vector'),)",
    "inputs": "x",
    "targets": "y",
    "loss": "lambda o, t: nn.functional.cross_entropy(o, t, reduction='none')",
    "accuracy": "lambda o, t: (o.argmax(1) == t).float()",
}
REGRESSION = {"classes": "1", "targets": "x.sum(1, keepdim=True)", "accuracy": "lambda o, t: (o - t).abs().flatten()"}


def tried(folder: Path, **changes: str) -> str:
    """What is said of the task with these changes, without the folder; empty where it is accepted."""
    path = folder / "mine.py"
    path.write_text(FILE.format(**{**HEALTHY, **changes}))
    try:
        try_task(load_task(f"{path}:task"), torch.device("cpu"))
    except InvalidInput as error:
        return str(error).replace(f"{folder}/", "")
    return ""


@pytest.mark.parametrize(
    ("changes", "line", "said"),
    [
        ({**REGRESSION, "loss": "nn.MSELoss()"}, 20, "per_sample_loss gives one number for 30 samples"),
        ({**REGRESSION, "targets": "x.sum(1)", "loss": "nn.MSELoss(reduction='none')"}, 20, "do outputs and targets"),
        ({"accuracy": "lambda o, t: (o.argmax(1) == t).float().mean()"}, 21, "per_sample_accuracy gives one number"),
        ({"sites": "('features.3',)"}, 17, "site 'features.3' is a str; name it with what it gives"),
        ({"sites": "(Site('layer.1', 'vector'),)"}, 17, "there is no site 'layer.1' in Sequential; it has 0, 1, 2"),
        ({"make_host": "net()"}, 16, "make_host is a Sequential already"),
        ({"make_host": "lambda: 3"}, 16, "make_host gives a int"),
        (
            {"inputs": "x.numpy()"},
            18,
            "inputs is a numpy.ndarray of float32 and must be a tensor; give torch.as_tensor",
        ),
        ({"inputs": "x.double()"}, 18, "inputs is float64 and Sequential computes in float32; give inputs.to("),
        ({"targets": "y.int()"}, 19, "targets is int32 and classes and indices are int64; give targets.long()"),
        ({"prepare": "x[7, 2] = torch.nan"}, 18, "inputs holds NaN (1 of 128 values of this batch)"),
        ({**REGRESSION, "loss": "lambda o, t: ((o - t) / 0).flatten()"}, 20, "the loss of the first batch is"),
        ({"prepare": "x = x.tolist()"}, 18, "inputs is a builtins.list and must be a tensor"),
        ({"prepare": "x = x[:, :3]"}, 14, "mat1 and mat2 shapes cannot be multiplied (32x3 and 4x8)"),
        ({"prepare": "y = y + 9"}, 20, "is out of bounds"),
        ({"prepare": "raise KeyError('colour')"}, 13, "KeyError: 'colour'"),
    ],
)
def test_the_line_and_the_way_out(tmp_path: Path, changes: dict[str, str], line: int, said: str) -> None:
    told = tried(tmp_path, **changes)

    assert said in told
    assert f"mine.py:{line}" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {**REGRESSION, "loss": "lambda o, t: ((o - t) ** 2).flatten()"},
        {"make_host": "lambda: net().double()", "inputs": "x.double()"},  # all of it in float64
        {"prepare": "x[7] = torch.nan", "make_host": "lambda: nn.Sequential(Fill(), net())", "sites": "()"},
    ],
)
def test_what_works_is_not_refused_for_how_it_looks(tmp_path: Path, changes: dict[str, str]) -> None:
    fill = "class Fill(nn.Module):\n    def forward(self, x):\n        return x.nan_to_num()\n"
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(**{**HEALTHY, **changes}) + fill)

    try_task(load_task(f"{path}:task"), torch.device("cpu"))


def test_a_model_is_afterwards_what_it_was_and_draws_what_it_would_have_drawn() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).eval()
    model[0].weight.grad = torch.ones(4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = (torch.get_rng_state(), random.getstate(), drawn())
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    def loss() -> torch.Tensor:
        random.random()
        np.random.rand()  # noqa: NPY002
        return model(x).square().mean()

    dry_run(model, {"batch": x}, loss, per_sample={"probe": lambda: model(x).square().mean(1)})

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones(4, 4))
    assert not model.training
    assert model[1].weight.grad is None
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert drawn() == states[2]


def drawn() -> list[int]:
    """The state of NumPy's own stream."""
    return np.random.get_state()[1].tolist()  # noqa: NPY002 - it is what a person's code may draw from


def test_the_layer_whose_output_is_not_finite_first_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LogSoftmax(1), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.fill_(torch.inf)

    with pytest.raises(InvalidInput, match=r"is nan: what 0 \(Linear\) gives is not finite") as told:
        dry_run(model, {"batch": torch.ones(3, 2)}, lambda: model(torch.ones(3, 2)).mean())

    assert str(told.value).startswith(__file__)  # the closure's own line


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda model, x: model(x).mean().item(), "the loss is a float; give the tensor itself"),
        (lambda model, x: model(x), r"the loss has shape \(3, 1\)"),
        (lambda model, x: model(x).mean().detach(), "the loss has no gradient"),
        (lambda model, x: (model(x) * 0).sqrt().sum(), "the gradient of weight is not a number"),
    ],
)
def test_a_loss_that_no_step_can_lower(loss, said: str) -> None:
    model, x = nn.Linear(2, 1), torch.ones(3, 2)

    with pytest.raises(InvalidInput, match=said):
        dry_run(model, {"batch": x}, lambda: loss(model, x))


def test_a_nested_batch_is_told_by_its_path() -> None:
    model = nn.Linear(2, 1)
    batch = {"x": (np.ones((3, 2)),)}

    with pytest.raises(InvalidInput, match=r"batch\['x'\]\[0\] is a NumPy array of float64; give torch.from_numpy"):
        dry_run(model, {"batch": batch}, lambda: model(batch["x"][0]).mean())


def test_without_a_batch_the_closures_own_variables_are_looked_at() -> None:
    model, x = nn.Linear(2, 1), torch.ones(3, 2, dtype=torch.float64)

    with pytest.raises(InvalidInput, match=r"x is float64 and Linear computes in float32; give x.to\(torch.float32\)"):
        dry_run(model, {}, lambda: model(x).mean())
    with (
        pytest.raises(InvalidInput, match="x is float64 and Linear computes in float32"),
        explained(model, lambda: x, "probe", caller()),
    ):
        model(x)
    with pytest.raises(InvalidInput, match=f"{__file__}:[0-9]+: no site"), explained(model, len, "probe", caller()):
        raise InvalidInput("no site")


def test_a_type_that_was_wanted_is_not_taken_for_one_that_was_given() -> None:
    """The indices of the batch are int64 and right; the classes that the closure makes of them are not."""
    model, rows = nn.Linear(2, 3), torch.arange(4)
    with pytest.raises(InvalidInput, match=r"test_dry_run.py:\d+: classes and indices are int64; give .long\(\)"):
        dry_run(model, {}, lambda: nn.functional.cross_entropy(model(torch.ones(4, 2)), (rows % 3).int()))


def test_what_the_machine_lacks_is_nobodys_mistake() -> None:
    def loss() -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        dry_run(nn.Linear(2, 1), {}, loss)


def test_the_place_of_a_call_and_of_its_arguments() -> None:
    def placed(**_arguments: object) -> Place | None:
        return caller()

    place = placed(
        first=1,
        second=(2,),
    )

    assert place is not None
    assert (place.file, place.function) == (__file__, "placed")
    assert defined_at(placed) == Place(__file__, place.line - 1, "placed")
    assert defined_at(nn.MSELoss()) is None
    assert defined_at(Task.from_samples) is None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def taks(): pass", "defines no function 'task'; did you mean taks?"),
        ("def other(): pass", "it has other"),
        ("def task(:\n", r"mine.py:1: SyntaxError"),
    ],
)
def test_a_typing_mistake_is_found_without_running_anything(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(source)

    with pytest.raises(InvalidInput, match=said):
        check_function(tmp_path / "mine.py", "task")


@pytest.mark.parametrize("source", ["from x import *", "import y as task", "task = 3", "async def task(): pass"])
def test_what_may_define_the_function_passes(tmp_path: Path, source: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    check_function(tmp_path / "mine.py", "task")
