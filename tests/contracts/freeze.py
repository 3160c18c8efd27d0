"""Freeze the contracts as they stand: python tests/contracts/freeze.py, from the root of the repository.

It writes what is missing and never changes what was frozen before:

- golden/v1/<body>.<number>.binpb and .txtpb for every kind of event with a field that no golden file of its kind sets:
  an event with every field set, as bytes that must decode for ever and as the text that says what they mean. A body
  with a choice of payloads gets one file for each.
- frozen.binpb, the descriptors of all contracts, against which `buf breaking` compares. Run `npx buf breaking --against
  tests/contracts/frozen.binpb` before you freeze: afterwards only the golden bytes and the reviewer of your commit
  remember what was there.

The code itself is generated with
python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. contracts/leyline/v1/*.proto
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf import struct_pb2, text_format, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from grpc_tools import protoc

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from contracts.leyline.v1 import event_pb2  # noqa: E402 - the script runs from a plain clone

GOLDEN = HERE / "golden" / "v1"
FROZEN = HERE / "frozen.binpb"

EPOCH_S = 1_750_000_000  # an arbitrary June day in 2025
FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)


def main() -> None:
    """Write what is missing."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, event in examples():
        frozen = list(GOLDEN.glob(f"{name}.*.binpb"))
        covered = set[str]().union(*(paths(event_pb2.Event.FromString(file.read_bytes())) for file in frozen))
        if not paths(event) <= covered:
            path = GOLDEN / f"{name}.{len(frozen) + 1}.binpb"
            path.write_bytes(event.SerializeToString(deterministic=True))
            path.with_suffix(".txtpb").write_text(text_format.MessageToString(event, as_utf8=True), encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    compile_descriptors(FROZEN)


def paths(message: Any, prefix: str = "") -> set[str]:
    """The dotted names of all fields that are set in `message`, at any depth."""
    found: set[str] = set()
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        found.add(name)
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for part in value if field.is_repeated else (value,):
                found |= paths(part, f"{name}.")
    return found


def examples() -> Iterator[tuple[str, event_pb2.Event]]:
    """Every kind of event with every field set, under the name of its golden files."""
    for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["body"].fields:
        assert field.message_type is not None
        payloads = [choice.name for oneof in _choices(field.message_type) for choice in oneof.fields]
        for payload in payloads or [""]:
            event = event_pb2.Event()
            _fill(event, {field.name, payload})
            yield "-".join(filter(None, (field.name, payload))), event


def compile_descriptors(target: Path) -> None:
    """Write the descriptors of all contracts, imports included, as one FileDescriptorSet."""
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "contracts").rglob("*.proto"))
    includes = [f"-I{ROOT}", f"-I{files('grpc_tools') / '_proto'}"]
    if protoc.main(["protoc", *includes, "--include_imports", f"--descriptor_set_out={target}", *protos]):
        raise SystemExit("protoc refused the contracts; its reason stands above")


def _choices(descriptor: Descriptor) -> list[Any]:
    """The oneofs that a person wrote; `optional` fields make one each under the hood, with a leading underscore."""
    return [oneof for oneof in descriptor.oneofs if not oneof.name.startswith("_")]


def _fill(message: Any, chosen: set[str]) -> None:
    """Set every field of `message`; of a oneof only the field in `chosen`. Values follow from the tags alone."""
    if isinstance(message, timestamp_pb2.Timestamp):
        message.seconds, message.nanos = EPOCH_S, 123_456_789
        return
    if isinstance(message, struct_pb2.Struct):
        message.update({"step": 12.0, "reason": "struct"})
        return
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof in _choices(message.DESCRIPTOR) and field.name not in chosen:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(getattr(message, field.name), field)
        elif field.message_type is not None:
            target = getattr(message, field.name)
            for part in (target.add(), target.add()) if field.is_repeated else (target,):
                part.SetInParent()
                _fill(part, chosen)
        elif field.is_repeated:
            getattr(message, field.name).extend(_scalar(field, number) for number in (1, 2))
        else:
            setattr(message, field.name, _scalar(field, 0))


def _fill_map(target: Any, field: FieldDescriptor) -> None:
    assert field.message_type is not None
    value = field.message_type.fields_by_name["value"]
    for number in (1, 2):
        key = f"{field.name}_{number}"
        if value.message_type is None:
            target[key] = _scalar(value, field.number + number)
        else:
            _fill(target[key], set())


def _scalar(field: FieldDescriptor, offset: int) -> Any:
    number = field.number + offset
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        return field.enum_type.values[-1 - offset % 2].number
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bytes([number % 256]) * 16
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return f"{field.name} {number} é"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    if field.cpp_type in FLOATS:
        return number + 0.25  # exact in 32 bits
    return 1 if field.name in {"version", "schema_version"} else 100 + number


if __name__ == "__main__":
    main()
