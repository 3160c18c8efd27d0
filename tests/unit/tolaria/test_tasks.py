"""Tasks: disjoint, reproducible sets, hosts of the sizes that were measured, and errors that say the way out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from esper.errors import InvalidInput
from esper.kasmina.sites import describe_sites
from esper.leyline.objects import ObjectStore
from esper.tolaria.data import Samples, epoch_order, fingerprint, split
from esper.tolaria.hosts import MLP, ResNetLite, mlp_widths, resnet_widths
from esper.tolaria.tasks import BUILTIN, load_task, recorded_task
from esper.tolaria.tasks.chars import encode
from esper.tolaria.tasks.digits import load_images
from esper.tolaria.tasks.task import cross_entropy, share_correct


def size(host: nn.Module) -> int:
    return sum(parameter.numel() for parameter in host.parameters())


@pytest.mark.parametrize(
    ("name", "params", "sizes"),
    [
        ("digits", 214, (1000, 200, 597)),
        ("digits-wide", 9_762, (1000, 200, 597)),
        ("spirals", 62, (600, 400, 2000)),
        ("spirals-wide", 186, (600, 400, 2000)),
        ("chars", 16_961, (20_000, 400, 800)),
        ("tab", 276, (3000, 600, 2400)),
        ("tab-wide", 19_716, (3000, 600, 2400)),
        ("tabn", 258, (500, 500, 3000)),
    ],
)
def test_host_and_sets_have_the_documented_sizes(name: str, params: int, sizes: tuple[int, int, int]) -> None:
    task = load_task(name)
    assert size(task.make_host()) == params
    assert (len(task.train), len(task.probe), len(task.test)) == sizes


@pytest.mark.parametrize("name", ["digits", "spirals", "chars", "tab", "tabn", "doc"])
def test_the_host_learns_from_a_batch_of_its_task_and_has_its_sites(name: str) -> None:
    task = load_task(name)
    host = task.make_host()
    logits = host(task.train.inputs[:8])
    task.loss(logits, task.train.targets[:8]).backward()
    assert all(parameter.grad is not None for parameter in host.parameters())
    assert all(host.get_submodule(name) is not None for site in task.sites for name in (site.module, site.consumer))
    assert task.per_sample_loss(logits, task.train.targets[:8]).shape == (8,)
    assert task.per_sample_accuracy(logits, task.train.targets[:8]).shape == (8,)


@pytest.mark.parametrize("name", ["digits", "spirals", "chars", "tab", "tabn", "doc"])
def test_the_three_sets_share_no_sample_and_are_the_same_every_time(name: str) -> None:
    task, again = load_task(name), load_task(name)
    sets = [{row.numpy().tobytes() for row in part.inputs} for part in (task.train, task.probe, task.test)]
    # The text repeats itself (blank lines, licences), so windows can be equal; their files are not.
    shared = len(sets[0] & sets[1]) + len(sets[0] & sets[2]) + len(sets[1] & sets[2])
    assert shared <= (0 if name not in ("chars", "doc") else 0.02 * len(task.test))
    assert fingerprint([task.train, task.probe, task.test]) == fingerprint([again.train, again.probe, again.test])


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    reference = load_digits()
    samples = load_images()
    assert np.array_equal(samples.inputs.flatten(1).numpy() * 16, reference.data)
    assert np.array_equal(samples.targets.numpy(), reference.target)


@pytest.mark.parametrize(("name", "units"), [("tab", [8, 8]), ("doc", [48, 24]), ("doc-wide", [96, 96, 48, 48])])
def test_layers_that_can_become_wider_are_found(name: str, units: list[int]) -> None:
    task = load_task(name)
    described = describe_sites(task.make_host(), task.sites, task.train.inputs[:4], lambda _site: [])
    assert [site.width.units for site in described if site.HasField("width")] == units


@pytest.mark.parametrize("name", ["tab", "tabn"])
def test_tables_are_scaled_by_what_training_knows(name: str) -> None:
    task = load_task(name)
    assert torch.allclose(task.train.inputs.mean(dim=0), torch.zeros(20), atol=1e-5)
    assert torch.allclose(task.train.inputs.std(dim=0), torch.ones(20), atol=1e-5)
    assert not torch.allclose(task.test.inputs.mean(dim=0), torch.zeros(20), atol=1e-5)


def test_the_text_of_doc_goes_on_from_window_to_window() -> None:
    task = load_task("doc")
    assert torch.equal(task.train.inputs[:-1, 1:], task.train.targets[:-1, :-1])
    assert torch.equal(task.train.targets[:-1, -1], task.train.inputs[1:, 0])
    assert len(task.test) == pytest.approx(0.1 * (len(task.train) / 0.85), rel=0.01)


def test_one_changed_bit_changes_the_fingerprint() -> None:
    samples = Samples(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    changed = Samples(torch.tensor([[0.0, 0.0], [0.0, 1e-45], [0.0, 0.0]]), samples.targets)
    assert fingerprint([samples]) != fingerprint([changed])


@pytest.mark.parametrize("name", ["digits@900", "spirals@210", "chars@25505", "tab@900", "tabn@600", "doc@20000"])
def test_a_static_host_of_a_wanted_size_is_near_it(name: str) -> None:
    wanted = int(name.partition("@")[2])
    assert size(load_task(name).make_host()) == pytest.approx(wanted, rel=0.08)


def test_width_search_finds_the_size_of_a_known_host() -> None:
    assert resnet_widths(size(ResNetLite(1, 5, 10)), image_channels=1, classes=10) == (5, 10)
    assert mlp_widths(size(MLP(2, [7, 7, 7], 2)), inputs=2, classes=2, depth=3) == [7, 7, 7]


def test_uint8_images_are_what_their_floats_are() -> None:
    host = ResNetLite(3, 2, 10)
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(host(images), host(images.float() / 255))


def test_the_transformer_sees_no_character_before_its_time() -> None:
    task = load_task("chars")
    host = task.make_host()
    ids = task.train.inputs[:1].clone()
    before = host(ids)
    ids[0, 40] = (ids[0, 40] + 1) % 97
    after = host(ids)
    assert torch.equal(before[0, :40], after[0, :40])
    assert not torch.equal(before[0, 40:], after[0, 40:])


def test_encoding_knows_newline_ascii_and_everything_else() -> None:
    assert encode("\n ~a\té").tolist() == [0, 1, 95, 66, 96, 96]


def test_accuracy_and_loss_of_tokens_are_means_over_the_window() -> None:
    logits = torch.tensor([[[5.0, 0.0], [5.0, 0.0]], [[5.0, 0.0], [0.0, 5.0]]])
    targets = torch.tensor([[0, 1], [0, 1]])
    assert share_correct(logits, targets).tolist() == [0.5, 1.0]
    expected = nn.functional.cross_entropy(logits[0], targets[0])
    assert torch.allclose(cross_entropy(logits, targets)[0], expected)


def test_an_epoch_visits_no_sample_twice() -> None:
    order = epoch_order(10, 3, 3, torch.Generator().manual_seed(1))
    assert order.shape == (3, 3)
    assert len(set(order.flatten().tolist())) == 9


def test_split_needs_as_many_samples_as_it_is_asked_for() -> None:
    with pytest.raises(InvalidInput, match="need 5 samples and there are 4"):
        split(Samples(torch.zeros(4, 1), torch.zeros(4)), (3, 2), 0)


# ------------------------------------------------------------------------------------------------------------- cifar10


def write_batches(folder: Path, records: int = 20, classes: int = 10) -> None:
    random = np.random.default_rng(3)
    for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        table = random.integers(0, 256, (records, 3073), dtype=np.uint8)
        table[:, 0] %= classes
        table.tofile(folder / name)


def test_cifar10_reads_the_standard_binary_form(tmp_path: Path) -> None:
    write_batches(tmp_path)
    task = load_task(f"cifar10:{tmp_path}")
    assert (len(task.train), len(task.probe), len(task.test)) == (36, 4, 20)
    raw = np.fromfile(tmp_path / "test_batch.bin", dtype=np.uint8)[:3073]
    assert int(task.test.targets[0]) == raw[0]
    assert int(task.test.inputs[0, 2, 31, 31]) == raw[3072]
    assert int(task.test.inputs[0, 0, 0, 1]) == raw[2]
    assert task.make_host()(task.train.inputs[:2]).shape == (2, 10)


def test_cifar10_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"does not hold data_batch_1.bin and test_batch.bin"):
        load_task(f"cifar10:{tmp_path}")


def test_cifar10_refuses_a_broken_file(tmp_path: Path) -> None:
    write_batches(tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(b"short")
    with pytest.raises(InvalidInput, match=r"data_batch_2.bin has 5 bytes, no multiple of 3073"):
        load_task(f"cifar10:{tmp_path}")


def test_cifar10_refuses_other_classes(tmp_path: Path) -> None:
    write_batches(tmp_path, classes=100)
    with pytest.raises(InvalidInput, match="not CIFAR-10"):
        load_task(f"cifar10:{tmp_path}")


# ------------------------------------------------------------------------------------------------- a person's own file

OWN_TASK = """
import torch
from torch import nn
from esper.tolaria.tasks import Site, Task

def mine():
    inputs = torch.randn(100, 5)
    return Task.from_samples(
        "mine",
        make_host=lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)),
        sites=(Site("1", "vector"),),
        inputs=inputs,
        targets=(inputs.sum(dim=1) > 0).long(),
    )

def nothing():
    return 3

def broken():
    raise KeyError("no such column")

def leaves():
    raise SystemExit(3)
"""


def test_a_file_of_ones_own_makes_a_task(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN_TASK)
    task = load_task(f"{path}:mine")
    assert (len(task.train), len(task.probe), len(task.test)) == (60, 15, 25)
    assert re.fullmatch("file:[0-9a-f]{64}", task.source)
    assert task.source_code == path.read_bytes()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "nothing\\(\\) returned int; return an esper Task"),
        ("broken", "failed with KeyError: 'no such column'"),
        ("leaves", "failed with SystemExit: 3"),
        ("absent", "own.py defines no function absent; "),
        ("torch", "own.py defines no function torch; "),
    ],
)
def test_errors_in_ones_own_file_are_one_line(tmp_path: Path, function: str, message: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN_TASK)
    with pytest.raises(InvalidInput, match=message) as caught:
        load_task(f"{path}:{function}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"nowhere.py is no file"):
        load_task("nowhere.py:task")


def test_an_unknown_task_lists_those_that_exist() -> None:
    with pytest.raises(InvalidInput, match="task 'digit' is unknown; choose digits, "):
        load_task("digit")
    with pytest.raises(InvalidInput, match="no number of parameters"):
        load_task("digits@many")


def test_every_builtin_task_is_called_what_it_is_listed_as() -> None:
    assert all(load_task(name).name == name for name in BUILTIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 65}, "64 training samples do not make 1 batches of 65"),
        ({"steps_per_epoch": 9}, "do not make 9 batches of 16"),
        ({"epochs": 0}, "must be positive"),
    ],
)
def test_a_task_that_does_not_fit_itself_is_refused(tiny_task, changes: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tiny_task(**changes)


def test_samples_need_a_target_each() -> None:
    with pytest.raises(InvalidInput, match="2 inputs and 3 targets"):
        Samples(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("source", ["", "builtin:digits", "file:", "file:../../evil", "file:" + "A" * 64])
def test_a_record_that_names_a_file_without_its_digest_runs_nothing(tmp_path: Path, source: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n" + OWN_TASK)
    with pytest.raises(InvalidInput, match=r"digest|SHA-256"):
        recorded_task(f"{path}:mine", source, ObjectStore(tmp_path / "objects"))

    assert not (tmp_path / "ran").exists()
    assert load_task(f"{path}:mine").source != source
    assert (tmp_path / "ran").exists()
