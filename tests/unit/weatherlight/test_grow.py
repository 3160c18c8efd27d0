"""Growth in a person's own loop: what they bring is theirs, and without growth nothing of it changes by a bit."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch import distributed, nn
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

import esper
from contracts.leyline.v1.leyline_pb2 import SEED_OPERATION_GERMINATE
from esper.errors import InvalidInput
from esper.testing import seed_command
from esper.tolaria.encoded import decode, encode
from esper.tolaria.engine import Session
from esper.tolaria.own_optimizer import OwnOptimizer
from esper.weatherlight.growth import wait_a_while
from projections import open_history
from streams.records import outgoing

EPOCHS = 3
X = torch.randn(192, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] * X[:, 1] > 0).long()


class Net(nn.Module):
    """A small host with running statistics, dropout and a part that gives a tuple."""

    class Part(nn.Module):
        """Gives a tuple."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            return torch.relu(self.linear(x)), x.mean()

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.part = self.Part()
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        hidden, _ = self.part(torch.tanh(self.norm(self.stem(x))))
        return self.head(functional.dropout(hidden, 0.1, self.training))


def probe(model):
    return functional.cross_entropy(model(X[128:]), Y[128:], reduction="none")


def batches():
    """Nested, shuffled by torch's global stream; a generator, which has no length."""
    for rows in torch.randperm(128).split(16):
        yield {"inputs": {"x": X[rows]}, "y": [Y[rows]]}


class Script:
    """A training script: model, optimiser, schedule, half precision and accumulation, and its two loops."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        self.model = Net()
        self.accumulate, self.scaler, self.dtype = 1, None, None
        groups = [{"params": self.model.stem.parameters(), "lr": 0.05}, {"params": list(self.model.parameters())[2:]}]
        steps = 8
        if kind == "adam":
            self.optimizer = torch.optim.AdamW(groups, lr=0.02)
            self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, [lambda n: 0.9**n, lambda n: 0.8**n])
        elif kind == "half":
            self.dtype, self.scaler = torch.float16, torch.amp.GradScaler("cpu", init_scale=2.0**18)
            self.optimizer = torch.optim.RMSprop(self.model.parameters(), lr=0.005)
            self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.95)
        else:
            self.dtype, self.accumulate, steps = torch.bfloat16, 2, 4
            self.optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
            self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer, max_lr=[0.1, 0.2], total_steps=steps * EPOCHS + 1
            )

    def loss(self, batch):
        with torch.autocast("cpu", dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            return functional.cross_entropy(self.model(batch["inputs"]["x"]), batch["y"][0])

    def plain(self) -> None:
        for _ in range(EPOCHS):
            self.model.train()
            for number, batch in enumerate(batches(), start=1):
                loss = self.loss(batch) / self.accumulate
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
                if number % self.accumulate:
                    continue
                if self.scaler is None:
                    self.optimizer.step()
                else:
                    self.scaler.step(self.optimizer)
                    self.scaler.update()
                self.optimizer.zero_grad()
                self.scheduler.step()

    def grown(self, folder, each_batch=lambda _run, _number: None, **settings):
        session = esper.grow(
            self.model,
            self.optimizer,
            probe=probe,
            epochs=EPOCHS,
            scheduler=self.scheduler,
            scaler=self.scaler,
            accumulate=self.accumulate,
            log=None,
            data_dir=folder,
            **settings,
        )
        with session as run:
            for _ in run.epochs():
                self.model.train()
                for number, batch in enumerate(run.batches(batches())):
                    each_batch(run, number)
                    run.step(lambda batch=batch: self.loss(batch))
                    if run.stepped:
                        self.scheduler.step()
            run.report(probe)
        return session


@pytest.mark.parametrize("kind", ["adam", "half", "cycle"])
def test_without_growth_the_weights_are_those_of_the_script_bit_for_bit(tmp_path, kind) -> None:
    one, other = Script(kind), Script(kind)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a scheduler behind a step left out
        torch.manual_seed(7)
        one.plain()
        drawn = torch.rand(3)
        torch.manual_seed(7)
        session = other.grown(tmp_path, policy="none")

    assert torch.equal(torch.rand(3), drawn)
    assert session.result.seeds["germinated"] == 0
    found, expected = other.model.state_dict(), one.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert other.scheduler.get_last_lr() == one.scheduler.get_last_lr()


GROWING = {"lifecycle": "swift", "config": {"seeds": {"proof_epochs": 1}}}


@pytest.mark.parametrize("kind", ["adam", "half", "cycle"])
def test_what_a_person_brings_grows_and_every_command_reads_its_history(tmp_path, kind) -> None:
    script = Script(kind)
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        session = script.grown(tmp_path, **GROWING)
    with open_history(tmp_path / "archive") as history:
        moves = history.execute("SELECT to_stage FROM transitions WHERE run_id = ?", [session.run_id]).fetchall()
        (finished,) = history.execute("SELECT status, test_loss FROM log.run_finished", []).fetchall()

    assert ("PROBATIONARY",) in moves
    assert finished == ("completed", session.result.test_loss)
    assert len(script.optimizer.param_groups) == len(script.scheduler.get_last_lr())


def test_a_step_that_must_not_be_taken_is_undone_and_its_epoch_comes_again(tmp_path) -> None:
    script, seen = Script("cycle"), []

    def poison(run, number: int) -> None:
        seen.append(run.run.recorder.epoch)
        if len(seen) == 12:
            script.model.head.weight.data.fill_(float("nan"))

    script.grown(tmp_path, poison, **GROWING)
    with open_history(tmp_path / "archive") as history:
        reasons = history.execute("SELECT reason, to_step FROM log.rolled_back", []).fetchall()

    assert reasons[0] == ("non_finite_loss", 4)
    assert seen[8:20] == [1] * 12  # four batches of the second epoch, and it again
    assert all(torch.isfinite(each).all() for each in script.model.state_dict().values())


def test_a_seed_is_in_the_optimiser_for_the_length_of_a_step_and_follows_its_hosts_group() -> None:
    host, seed = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), nn.Linear(4, 4)
    optimizer = torch.optim.SGD([{"params": host[0].parameters(), "lr": 1.0}, {"params": host[1].parameters()}], lr=0.1)
    own = OwnOptimizer(optimizer, places=lambda _seed: list(host[1].parameters()), monotonic=lambda: 0.0)
    own.sync({"s1": list(seed.parameters())}, {"s1": seed})
    optimizer.param_groups[1]["lr"] = 0.25
    own.follow(own.groups[-1])
    before = seed.weight.detach().clone()
    seed.weight.grad = torch.ones_like(seed.weight)
    optimizer.step()

    assert own.names == ["host", "host.2", "s1"]
    assert torch.equal(seed.weight, before - 0.25)
    assert len(optimizer.param_groups) == 2
    assert list(optimizer.state_dict()["state"]) == []


def test_the_state_of_any_optimiser_comes_back_with_its_seeds() -> None:
    host, seed = nn.Linear(3, 4), nn.Linear(4, 4)

    def one() -> OwnOptimizer:
        optimizer = torch.optim.NAdam(host.parameters(), lr=0.1)
        own = OwnOptimizer(optimizer, places=lambda _seed: list(host.parameters()), monotonic=lambda: 0.0)
        own.sync({"s1": list(seed.parameters())}, {"s1": seed})
        return own

    own, other = one(), one()
    for parameter in (*host.parameters(), *seed.parameters()):
        parameter.grad = torch.ones_like(parameter)
    own.step()
    saved = own.state()
    other.load_state(saved, {"s1": seed})

    assert str(other.state()) == str(saved)
    assert set(saved["groups"][1]["state"]) == {"0", "1"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probe": lambda model: probe(model).mean()}, r"test_grow.py:\d+: .*one loss for each sample"),
        ({"probe": lambda model: (probe(model), {"mae": 1.0})}, "declare it"),
        ({"sites": ("stemm",)}, "stem"),
        ({"optimizer": 3}, "torch.optim.Optimizer"),
        ({"config": {"clip_nrom": 1.0}}, "clip_nrom.*did you mean clip_norm?"),
        ({"config": {"seeds": {"blend_epoch": 1}}}, "blend_epoch'.*did you mean blend_epochs?"),
        ({"model": torch.compile(Net(), fullgraph=True)}, "fullgraph"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, change, said) -> None:
    script = Script("adam")
    given = {"model": script.model, "optimizer": script.optimizer, "probe": probe, "epochs": 1, "log": None} | change
    with pytest.raises(InvalidInput, match=re.compile(said)):
        esper.grow(given.pop("model"), given.pop("optimizer"), data_dir=tmp_path / "d", **given)

    assert not (tmp_path / "d").exists()


@pytest.mark.filterwarnings("ignore:FSDP is switching to use")
@pytest.mark.parametrize("how", ["FSDP", "FSDP2", "FSDP2 of a part"])
def test_a_model_that_is_sharded_is_refused_by_name(tmp_path, how) -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = Net()
        if how == "FSDP":
            model = fsdp.FullyShardedDataParallel(model, device_id=torch.device("cpu"))
        else:
            part = model if how == "FSDP2" else model.part
            fsdp.fully_shard(part, mesh=init_device_mesh("cpu", (1,)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(InvalidInput, match=r"sharded by FSDP.*: use DistributedDataParallel, or no sharding"):
            esper.grow(model, optimizer, probe=probe, epochs=1, log=None, data_dir=tmp_path / "d")
    finally:
        distributed.destroy_process_group()

    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("how", ["compiled in place", "compiled", "a compiled part"])
def test_a_model_for_inductor_is_refused_where_there_is_no_compiler(tmp_path, monkeypatch, how) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    script = Script("adam")
    if how == "compiled":
        script.model = torch.compile(script.model)
    else:
        (script.model if how == "compiled in place" else script.model.part).compile()

    with pytest.raises(InvalidInput, match=rf"needs a C\+\+ compiler on a CPU, and there is no {tmp_path}/c\+\+"):
        script.grown(tmp_path, policy="none")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by torch's compiler
def test_a_compiled_host_grows_as_the_plain_one_does(tmp_path) -> None:
    """With a compiler that changes no arithmetic both come to the same weights."""
    found = []
    for compiled in (False, True):
        script = Script("adam")
        plain = script.model
        if compiled:
            script.model = torch.compile(plain, backend="eager")
        torch.manual_seed(7)
        session = script.grown(tmp_path / str(compiled), sites=("part",), **GROWING | {"config": {"axes": ("depth",)}})
        found.append((session.result.seeds, plain.state_dict()))
    (seeds, weights), (others, same) = found

    assert seeds == others
    assert seeds["germinated"] > 0
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def told_of(folder) -> dict[str, list[tuple[object, ...]]]:
    """What the history of a run says of its states, its losses, and what it cost."""
    with open_history(folder / "archive") as history:
        return {
            "states": history.execute("SELECT global_step, root FROM log.state_digested ORDER BY ALL").fetchall(),
            "epochs": history.execute(
                "SELECT epoch, state.training_loss, flops_training, params FROM log.epoch_completed ORDER BY ALL"
            ).fetchall(),
        }


def test_a_step_taken_alone_comes_to_what_the_whole_way_comes_to(tmp_path, monkeypatch) -> None:
    """States, which count the slots' steps, losses and FLOPs."""
    alone = Script("adam").grown(tmp_path / "alone", policy="none")
    monkeypatch.setattr(Session, "_has_more_to_do", lambda _session: True)
    whole = Script("adam").grown(tmp_path / "whole", policy="none")

    assert (alone._cost is not None, whole._cost) == (True, None)
    assert told_of(tmp_path / "alone") == told_of(tmp_path / "whole")


def test_what_is_asked_for_while_steps_are_taken_alone_grows_all_the_same(tmp_path) -> None:
    """A person's command is looked for again and again, and from then on steps are whole."""
    script = Script("adam")

    def ask(run, number: int) -> None:
        if number == 3 and run.run.recorder.epoch == 0:
            log = run._late_log.real
            command = seed_command(run.run_id, SEED_OPERATION_GERMINATE, "s1", "BP009")
            log._arrived.append(log._ring.sign(outgoing(command).payload))

    session = script.grown(tmp_path, ask, policy="none", sites=("part",))

    assert (session.result.seeds["germinated"], session._cost) == (1, None)


def test_more_figures_than_fit_into_an_event_go_out_in_several(tmp_path) -> None:
    def tell(run, number: int) -> None:
        run.log({f"figure {each}": number + each for each in range(600)})

    Script("adam").grown(tmp_path, tell, policy="none")
    with open_history(tmp_path / "archive") as history:
        found = history.execute(
            "SELECT count(*), max(value) FROM telemetry WHERE name LIKE 'figure%' AND source = 'script'"
        ).fetchall()

    assert found == [(600 * 8 * EPOCHS, 7 + 599)]


def test_plain_state_goes_there_and_back() -> None:
    scheduler = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), [3, 5])
    state = scheduler.state_dict() | {"best": float("inf"), "seen": {1, 2}, "pair": (1, "a")}

    assert decode(encode(state, "scheduler")) == state
    with pytest.raises(InvalidInput, match=r"scheduler\['f'\] is a function"):
        encode({"f": probe}, "scheduler")


def test_a_loop_that_is_left_early_ends_its_epoch_and_a_persons_own_figures_keep_their_step(tmp_path) -> None:
    script = Script("adam")
    with esper.grow(script.model, script.optimizer, probe=probe, epochs=9, log=None, data_dir=tmp_path) as run:
        for epoch in run.epochs():
            for batch in run.batches(batches()):
                run.step(lambda batch=batch: script.loss(batch))
                run.log({"lr": 0.5, "epoch": epoch})
                if run.run.recorder.step == 11:
                    break
            if epoch == 1:
                break
    with open_history(tmp_path / "archive") as history:
        saved = history.execute("SELECT max(step) FROM log.checkpoint_saved", []).fetchall()
        packets = "SELECT count(*) FROM log.telemetry_packet WHERE source_subsystem = 'script'"
        told = history.execute(packets, []).fetchall()
        steps = history.execute("SELECT step FROM telemetry WHERE name = 'lr' ORDER BY step").fetchall()

    assert (run.result.status, run.result.epochs) == ("completed", 2)
    assert saved == [(11,)]
    assert told[0][0] >= 2
    assert steps == [(step,) for step in range(1, 12)]


def test_an_interrupt_is_told_and_can_be_resumed(tmp_path) -> None:
    script = Script("adam")

    def interrupt(_run, number: int) -> None:
        if number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        script.grown(tmp_path, interrupt)
    with open_history(tmp_path / "archive") as history:
        assert history.execute("SELECT status FROM log.run_finished", []).fetchall() == [("interrupted",)]


PROVEN = {"proof_epochs": 1, "benefit_z": 0.0, "regression_z": 5.0}


@pytest.mark.parametrize(("kind", "axis"), [("adam", "width"), ("half", "width"), ("adam", "depth")])
def test_what_grew_comes_back_as_a_module_that_computes_the_same(tmp_path, kind, axis) -> None:
    """Wider layers too, whose moments the optimiser of the script has grown."""
    script = Script(kind)
    sites = [("stem", "vector", "part.linear"), "part"]
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        session = script.grown(tmp_path, sites=sites, lifecycle="swift", config={"axes": (axis,), "seeds": PROVEN})
    loaded = esper.load(session.run_id, model=Net(), data_dir=tmp_path)

    assert session.result.seeds["fossilized"] == 1
    assert session.result.params_final > session.result.params_host
    assert torch.equal(loaded.eval()(X), script.model.eval()(X))


class Stream(IterableDataset):
    """Samples that come one after the other."""

    def __iter__(self):
        yield from ({"x": inputs, "y": target} for inputs, target in zip(X[:64], Y[:64], strict=True))


def test_a_loader_without_a_length_takes_its_last_step_with_what_is_left(tmp_path) -> None:
    script, loader = Script("adam"), DataLoader(Stream(), batch_size=8)
    given = {"probe": probe, "epochs": 1, "log": None, "accumulate": 3, "loader": loader}
    with esper.grow(script.model, script.optimizer, data_dir=tmp_path, **given) as run:
        for _ in run.epochs():
            for batch in run.batches(loader):
                run.step(lambda batch=batch: functional.cross_entropy(script.model(batch["x"]), batch["y"]))

    assert run.run.recorder.step == 3  # eight batches: three, three and two


def test_an_error_of_the_script_ends_the_run_with_its_reason_and_is_raised_on(tmp_path) -> None:
    script = Script("adam")

    def fail(_run, number: int) -> None:
        if number == 5:
            raise RuntimeError("the cat is on the keyboard")

    with pytest.raises(RuntimeError, match="cat"):
        script.grown(tmp_path, fail)
    with open_history(tmp_path / "archive") as history:
        ends = history.execute("SELECT status, reason FROM log.run_finished", []).fetchall()

    assert ends == [("failed", "RuntimeError: the cat is on the keyboard")]


def test_a_training_that_is_over_is_not_lost_over_a_slow_archive(tmp_path):
    (tmp_path / "archive").mkdir()
    with pytest.warns(UserWarning, match=r"lacks the end of esper\.runs still; the log has it"):
        wait_a_while(tmp_path, {("esper.runs", 0): 5}, 0.1, lambda: "")
