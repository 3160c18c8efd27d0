"""Nothing that arrives from outside is unpickled or run, but where a person was asked: by the source, and by trying."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path

import pytest

from esper.errors import EsperError
from esper.leyline.objects import ObjectStore
from esper.tolaria.state import CHECKPOINT_FORMAT, Position, load_checkpoint

ROOT = Path(__file__).parents[2]
LOADERS = {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib", "cloudpickle", "yaml", "runpy"}
ASKED_FOR = {
    "esper/cli/sites.py": {"run_path"},  # a script that a person names to `esper sites`
    "esper/tezzeret/compiled.py": {"load_cache_artifacts"},  # a compiled kernel, see esper/cli/trust.py
    "esper/tolaria/grown_source.py": {"eval", "exec"},  # source that it wrote itself, to compare what it computes
    "esper/tolaria/script_again.py": {"run_path"},  # the run's own script, see esper/cli/trust.py
    "esper/tolaria/shared_world.py": {"loads"},  # an error that it has just pickled, to see whether it can be sent
    "esper/tolaria/tasks/__init__.py": {"exec_module"},  # a person's own task, as above
}


def calls_of(tree: ast.AST) -> set[str]:
    """What a source calls that unpickles or runs code, by the last part of its name."""
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            module = getattr(node.func.value, "id", "") if isinstance(node.func, ast.Attribute) else ""
            given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            safe, pickled = given.get("weights_only") is True, "allow_pickle" in given
            if (
                name in {"exec_module", "load_cache_artifacts", "run_path", "exec"}
                or (name == "eval" and not module and isinstance(node.func, ast.Name))
                or (module == "torch" and name == "load" and not safe)
                or (module in LOADERS and name in {"load", "loads", "Unpickler", "open", "unsafe_load"})
                or (module == "jit" and name == "load")
                or pickled
            ):
                found.add(name)
    return found


def test_the_source_unpickles_and_runs_nothing_but_what_is_asked_for() -> None:
    found = {}
    for room in ("esper", "streams", "projections", "contracts"):
        for path in sorted((ROOT / room).rglob("*.py")):
            calls = calls_of(ast.parse(path.read_text("utf-8")))
            if calls:
                found[path.relative_to(ROOT).as_posix()] = calls

    assert found == ASKED_FOR


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.loads(content)",
        "np.load(path, allow_pickle=True)",
        "exec(code)",
        "eval(code)",
        "jit.load(path)",
    ],
)
def test_the_check_finds_what_it_looks_for(source: str) -> None:
    assert calls_of(ast.parse(source))
    assert not calls_of(ast.parse("torch.load(path, weights_only=True); module.eval(); json.loads(x)"))


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("place", ["manifest", "tensors"])
def test_a_checkpoint_that_is_a_pickle_is_refused_and_not_run(tmp_path: Path, place: str) -> None:
    ran, objects = tmp_path / "ran", ObjectStore(tmp_path / "objects")
    evil = objects.put(pickle.dumps(Evil(ran)))
    where = {"format": CHECKPOINT_FORMAT, **dict.fromkeys(Position.__slots__, 0)}
    manifest = {**where, "digest": "00", "tensors_ref": evil, "state": {}}
    ref = evil if place == "manifest" else objects.put(json.dumps(manifest).encode())
    with pytest.raises(EsperError, match="is no checkpoint"):
        load_checkpoint(objects, ref)

    assert not ran.exists()
    pickle.loads(objects.get(evil))
    assert ran.exists()
