"""The layout of a safetensors file, read from its header alone: no tensor is made and torch is not needed.

Format: https://huggingface.co/docs/safetensors, 8 bytes of header length, the header as JSON, then the tensors.
"""

from __future__ import annotations

import json
import struct
from typing import Final, TypeAlias

from esper.errors import CorruptState

MAX_HEADER_BYTES: Final = 2**20

Layout: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
"""Of every tensor, by name: torch's word for its numbers, and its shape."""

_DTYPES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def layout(content: bytes) -> Layout:
    """What tensors the bytes hold; raises CorruptState where they are no safetensors file of known kinds of number."""
    try:
        (length,) = struct.unpack_from("<Q", content)
        if length > min(MAX_HEADER_BYTES, len(content) - 8):
            raise CorruptState(f"a safetensors header of {length} bytes in a file of {len(content)}")
        header = json.loads(content[8 : 8 + length])
        return {
            str(name): (_DTYPES[entry["dtype"]], tuple(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptState(f"no safetensors file: {type(error).__name__} {error}") from None
