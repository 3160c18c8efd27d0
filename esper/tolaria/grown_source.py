"""The source code of a network: PyTorch modules as a person would write them, without the classes that it was made of.

`torch.export` runs the network once and keeps what each of its modules did; here that becomes a class for each module,
under the names that the network has. A module of `torch.nn` is written as its constructor, all else as the operations
that it did. What was made is run and compared before it is returned. It computes the same to the bit, unless the
network takes a way that `torch.export` does not know, such as the quick one of `nn.TransformerEncoderLayer`: then it is
the same up to rounding.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from esper.errors import InvalidInput
from esper.karn.table import find
from esper.kasmina.grown import Grown

_IMPORTS: Final = {"device": "from torch import device", "inf": "from math import inf", "nan": "from math import nan"}
"""What the code of a traced graph may use without saying where from."""
_INLINE: Final = 4096
"""Numbers of a tensor that is no part of the state dictionary and so has to stand in the code; a mask of 64 tokens."""
_CALL: Final = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)\(")
_SIZE: Final = re.compile(r"torch\.ops\.aten\.sym_size\.int\((\w+), (-?\d+)\)")
_ITEM: Final = re.compile(r'getattr\((self[\w.\[\]]*), "(\d+)"\)')
_FREED: Final = re.compile(r";  (\w+ = )+None$", re.MULTILINE)
_LINE: Final = "\n"
_WIDE: Final = 90
_PLAIN: Final = ("default", "Tensor", "Scalar", "int", "dim")


def source_of(network: nn.Module, inputs: Any, title: str, words: Sequence[str] = ()) -> str:
    """Python source of a module like `network`, which is in evaluation mode, for inputs as `inputs`.

    Its last line is `network = ...`, without weights yet: the state dictionary of `network` fits it. `inputs` are what
    the network takes in one call: a tensor, a dict of some, or a tuple of several such, samples first, two at least.
    `title` and `words` are what the file says first. Raises InvalidInput where `torch.export` cannot follow it.
    """
    arguments = arguments_of(network, inputs)
    writer = _Writer(network, _traced(network, arguments), arguments)
    try:
        made = writer.expression("")
    except InvalidInput:
        raise
    except Exception as error:  # noqa: BLE001 - of what was traced of a person's model, anything
        raise _unwritten(network, f"{type(error).__name__}: {error}") from None
    told = "\n".join([title, *([""] if words else []), *words]).replace('"', "'").replace("\\", "/")
    imports = [_IMPORTS[name] for name in sorted(writer.needs)]
    head = "\n".join(
        [f'"""{told}\n"""', "", *imports, "import torch", "from torch import nn", "from torch.nn import functional"]
    )
    source = "\n\n\n".join([head, *writer.classes, f"network = {made}\n"])
    _check(source, network, arguments)
    return source


def arguments_of(network: nn.Module, inputs: Any) -> tuple[Any, ...]:
    """The arguments of one call: a tuple is several; raises InvalidInput where they are not made of tensors."""
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    leaves = pytree.tree_leaves(arguments)
    if not leaves or not all(isinstance(each, Tensor) for each in leaves):
        raise InvalidInput(
            f"to trace {type(network).__name__} its inputs must be a tensor, or a tuple or dict of tensors"
        )
    return arguments


def batches(network: nn.Module, arguments: tuple[Any, ...]) -> Any:
    """As `torch.export` wants to be told that there may be any number of samples, unless the network says otherwise."""
    dynamic = pytree.tree_map(lambda each: {0: torch.export.Dim.AUTO} if each.dim() else None, arguments)
    return (dynamic,) if isinstance(network, Grown) else dynamic  # its `forward` takes whatever its site takes


@contextmanager
def following(network: nn.Module, maker: str) -> Iterator[None]:
    """Without torch's own chatter, such as that torchvision is not installed, and with its failures in one line."""
    before, chatter = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(chatter), redirect_stderr(chatter):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # noqa: BLE001 - of a person's model, anything
        why = (str(error).strip() or "for a reason that it does not give").splitlines()[0]
        raise InvalidInput(
            f"{maker} cannot follow {type(network).__name__}: {type(error).__name__}: {why}; its weights can be written"
        ) from None
    finally:
        logging.disable(before)


def _traced(network: nn.Module, arguments: tuple[Any, ...]) -> nn.Module:
    with following(network, "torch.export"):
        program = torch.export.export(network, arguments, dynamic_shapes=batches(network, arguments))
        return torch.export.unflatten(program)


@dataclass(slots=True)
class _Writer:
    """Writes the modules of a network, children first; `classes` are in the order in which they are needed."""

    network: nn.Module
    traced: nn.Module
    arguments: tuple[Any, ...]
    classes: list[str] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)
    _names: dict[str, str] = field(default_factory=dict)

    def expression(self, path: str) -> str:
        """What makes the module at this path."""
        module = self.network.get_submodule(path)
        short = _constructor(module)
        if short is not None and self._is_plain(path):
            return short
        children = {name: self.expression(f"{path}.{name}".strip(".")) for name, _ in module.named_children()}
        if type(module) is nn.ModuleList and not self._runs(path):
            return _listed("nn.ModuleList([", children.values(), "])")
        if type(module) is nn.Sequential and self._is_chain(path, list(children)):
            return _listed("nn.Sequential(", children.values(), ")")
        body = self._states(path, module)
        for name, made in children.items():
            body.append(f"        {_attribute(name)} = {made.replace(_LINE, _LINE + 8 * ' ')}")
        return f"{self._named(module, _said(module) + self._init(body) + self._forward(path))}()"

    def _init(self, body: Sequence[str]) -> str:
        return "\n".join(["    def __init__(self):", "        super().__init__()", *body]) + "\n"

    def _runs(self, path: str) -> bool:
        return self._graph(path) is not None

    def _graph(self, path: str) -> torch.fx.Graph | None:
        try:
            found = self.traced.get_submodule(path)
        except AttributeError:
            return None  # nothing of it ran
        graph = getattr(found, "graph", None)
        return graph if isinstance(graph, torch.fx.Graph) and len(graph.nodes) else None

    def _is_plain(self, path: str) -> bool:
        """Whether the module ran as one step from a tensor to a tensor, or not at all."""
        graph = self._graph(path)
        if graph is None:
            return True
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        return len(inputs) == 1 and isinstance(_output(graph), torch.fx.Node)

    def _is_chain(self, path: str, children: Sequence[str]) -> bool:
        """Whether all children ran one after the other, each on what the one before gave alone, or none of them did."""
        graph = self._graph(path)
        if graph is None:
            return True
        called = [node for node in graph.nodes if node.op == "call_module"]
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1 or [node.target for node in called] != list(children):
            return False
        fed = [*inputs, *called]
        chained = all(node.args == (before,) and not node.kwargs for before, node in zip(fed, called, strict=False))
        return chained and _output(graph) is called[-1]

    def _states(self, path: str, module: nn.Module) -> list[str]:
        """Lines that make parameters and buffers, and the constants that the forward pass reads."""
        lines = []
        for name, parameter in module.named_parameters(recurse=False):
            wanted = "" if parameter.is_floating_point() else ", requires_grad=False"
            lines.append(f"        {_attribute(name)} = nn.Parameter({_empty(parameter)}{wanted})")
        for name, buffer in module.named_buffers(recurse=False):
            kept = name not in module._non_persistent_buffers_set  # noqa: SLF001 - there is no other way to know
            value = _empty(buffer) if kept else self._literal(path, name, buffer)
            lines.append(f'        self.register_buffer("{name}", {value}{"" if kept else ", persistent=False"})')
        graph = self._graph(path)
        for node in () if graph is None else graph.nodes:
            if node.op == "get_attr" and "." not in node.target and not hasattr(module, node.target):
                constant = getattr(self.traced.get_submodule(path), node.target)
                value = self._literal(path, node.target, constant)
                lines.append(f'        self.register_buffer("{node.target}", {value}, persistent=False)')
        return lines

    def _literal(self, path: str, name: str, tensor: Tensor) -> str:
        if tensor.numel() > _INLINE:
            raise InvalidInput(
                f"{f'{path}.{name}'.strip('.')} has {tensor.numel()} numbers that are in no state dictionary: make it "
                "a persistent buffer"
            )
        return f"torch.tensor({tensor.tolist()!r}, dtype={tensor.dtype})"

    def _forward(self, path: str) -> str:
        graph = self._graph(path)
        if graph is None:
            return ""
        code = _renamed(graph, keep_inputs=not path).python_code("self").src.strip("\n").rstrip()
        self.needs.update(name for name in _IMPORTS if re.search(rf"\b{name}\b(?! =)", code))
        code = _FREED.sub("", code)
        code = _SIZE.sub(r"\1.size(\2)", code)
        code = _CALL.sub(_operation, code)
        while (better := _ITEM.sub(self._item(path), code)) != code:
            code = better
        if not path:
            code = self._unpacked(code, _guards(graph))
            code = re.sub(r"return \((\w+),\)$", r"return \1", code)
        return "\n" + "\n".join(f"    {line}".rstrip() for line in code.split("\n")) + "\n"

    def _unpacked(self, code: str, guards: Sequence[str]) -> str:
        """The network's own forward, with the arguments that it had where a dict or list is one of them."""
        head, _, body = code.partition("\n")
        if all(isinstance(each, Tensor) for each in self.arguments):
            return _LINE.join([head, *guards, body])
        names = re.findall(r"\w+", head.partition("(self, ")[2])
        count = len(self.arguments)
        signature = [f"inputs_{number}" for number in range(count)] if count > 1 else ["inputs"]
        lines = []
        for name, (keys, _) in zip(names, pytree.tree_flatten_with_path(self.arguments)[0], strict=True):
            number = int(pytree.keystr(keys[:1])[1:-1])
            lines.append(f"    {name} = {signature[number]}{pytree.keystr(keys[1:])}")
        return _LINE.join([f"def forward(self, {', '.join(signature)}):", *lines, *guards, body])

    def _item(self, path: str) -> Any:
        """`getattr(self.blocks, "0")` as `self.blocks[0]`, where the owner is a list of modules."""

        def written(found: re.Match[str]) -> str:
            inner = re.sub(r"\[(\d+)\]", r".\1", found[1]).removeprefix("self").strip(".")
            owner = self.network.get_submodule(f"{path}.{inner}".strip("."))
            listed = inner and type(owner) in (nn.ModuleList, nn.Sequential)
            return f"{found[1]}[{found[2]}]" if listed else f'{found[1]}._modules["{found[2]}"]'

        return written

    def _named(self, module: nn.Module, text: str) -> str:
        """The name of the class with this text; one that is there already where it is the same."""
        wanted = type(module).__name__
        if isinstance(module, Grown):
            wanted = f"{_camel(find(module.blueprint_id).name)}At{module.seed_id.upper()}"
        if text in self._names:
            return self._names[text]
        taken = set(self._names.values())
        number = 2
        name = wanted if wanted.isidentifier() else "Module"
        first = name
        while name in taken:
            name, number = f"{first}{number}", number + 1
        self._names[text] = name
        self.classes.append(f"class {name}(nn.Module):\n{text}".rstrip())
        return name


def _output(graph: torch.fx.Graph) -> Any:
    """What the module gave; the whole network's is a tuple of one where it gave one."""
    output = graph.output_node().args[0]
    return output[0] if isinstance(output, tuple | list) and len(output) == 1 else output


def _guards(graph: torch.fx.Graph) -> list[str]:
    """What refuses inputs of other sizes than those that were traced: some operations would compute nonsense."""
    lines = []
    for node in graph.nodes:
        traced = node.meta.get("val") if node.op == "placeholder" else None
        if not isinstance(traced, Tensor):
            continue
        free = bool(traced.dim()) and not isinstance(traced.shape[0], int)
        fixed = tuple(traced.shape[1:] if free else traced.shape)
        if fixed and all(isinstance(size, int) for size in fixed):
            shape, wanted = f"{node.name}.shape{'[1:]' if free else ''}", ("N", *fixed) if free else fixed
            said = f"({', '.join(map(str, wanted))}{',' if len(wanted) == 1 else ''})"
            lines += [f"    if {shape} != {fixed}:", f'        raise ValueError("{node.name} must have shape {said}")']
    return lines


def _renamed(graph: torch.fx.Graph, *, keep_inputs: bool) -> torch.fx.Graph:
    """The graph with names that do not count through the whole network, so that what does the same reads the same."""
    renamed, now = torch.fx.Graph(), dict[torch.fx.Node, torch.fx.Node]()
    for node in graph.nodes:
        word, target = re.sub(r"(_\d+)+$", "", node.name), node.target
        if node.op == "placeholder":
            size = word.startswith("sym_size")
            word = target = (
                node.name if keep_inputs else f"size_{len(now)}" if size else f"x_{len(now)}" if now else "x"
            )
        arguments = torch.fx.node.map_arg((node.args, node.kwargs), now.__getitem__)
        now[node] = renamed.create_node(node.op, target, *arguments, name=word or "x")
    return renamed


def _said(module: nn.Module) -> str:
    """The docstring of a class."""
    if isinstance(module, Grown):
        alpha = "" if module.alone else f" at alpha {float(module.strength):g}"
        return (
            f'    """{find(module.blueprint_id).full_name} grew here as {module.seed_id}: {module.stage}{alpha}."""\n\n'
        )
    return ""


def _constructor(module: nn.Module) -> str | None:
    """The module of `torch.nn` as the call that makes one like it; None where there is no such call."""
    if not type(module).__module__.startswith("torch.nn.") or list(module.children()):
        return None
    written = f"nn.{module!r}"
    try:
        made = eval(written, {"nn": nn, "torch": torch})  # noqa: S307 - what torch's own module says of itself
    except Exception:  # noqa: BLE001 - not all of them say what would make them
        return None
    states = [{name: (each.shape, each.dtype) for name, each in one.state_dict().items()} for one in (module, made)]
    return written if type(made) is type(module) and repr(made) == repr(module) and states[0] == states[1] else None


def _operation(found: re.Match[str]) -> str:
    name, overload = found[1], found[2]
    if overload in _PLAIN:
        for owner, written in ((torch, "torch"), (functional, "functional"), (torch.Tensor, "torch.Tensor")):
            if hasattr(owner, name):
                return f"{written}.{name}("
    return found[0]


def _listed(head: str, items: Iterable[str], tail: str) -> str:
    """On one line where it is short, else with a line for each."""
    made = [*items]
    if len(short := head + ", ".join(made) + tail) <= _WIDE and _LINE not in short:
        return short
    return _LINE.join([head, *(f"    {each.replace(_LINE, _LINE + 4 * ' ')}," for each in made), tail])


def _empty(tensor: Tensor) -> str:
    kind = "" if tensor.dtype == torch.float32 else f", dtype={tensor.dtype}"
    return f"torch.zeros({tuple(tensor.shape)}{kind})"


def _attribute(name: str) -> str:
    return f"self.{name}" if name.isidentifier() else f'self._modules["{name}"]'


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _check(source: str, network: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Run the source and compare what it computes; raises InvalidInput where it is not what the network computes."""
    scope: dict[str, Any] = {}
    try:
        exec(compile(source, f"<source of {type(network).__name__}>", "exec"), scope)  # noqa: S102 - made here
        made = scope["network"]
        made.load_state_dict(network.state_dict())
        with torch.no_grad():
            found = pytree.tree_leaves(made.eval()(*arguments))
            wanted = pytree.tree_leaves(network(*arguments))
    except Exception as error:  # noqa: BLE001 - of code that was put together, anything
        raise _unwritten(network, f"{type(error).__name__}: {error}") from None
    if len(found) != len(wanted) or not all(_alike(*pair) for pair in zip(found, wanted, strict=True)):
        raise _unwritten(network, "what was written computes something else")


def _unwritten(network: nn.Module, why: str) -> InvalidInput:
    return InvalidInput(f"{type(network).__name__} cannot be written as source: {why}".splitlines()[0])


def _alike(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)
