"""Enum values that this contract does not know, as a newer writer may send them.

Nissa takes such a value for the enum's 0, unknown, counts it and tells of it (R-LEY-20). What must not be guessed at is
refused where it is read: a command, a fact's stage.
"""

from __future__ import annotations

from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message


def unknown_values(message: Message) -> list[tuple[str, int]]:
    """The enum's name and the number of every value in `message`, at any depth, that the enum does not have."""
    found: list[tuple[str, int]] = []
    for field in _fields_to_look_at(message.DESCRIPTOR):
        value = getattr(message, field.name)
        values = value if field.is_repeated else [value]
        if field.enum_type is not None:
            known = field.enum_type.values_by_number
            found += [(field.enum_type.name, number) for number in values if number not in known]
        elif field.is_repeated or message.HasField(field.name):
            for each in values:
                found += unknown_values(each)
    return found


@cache
def _fields_to_look_at(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """The fields of a message that are enums or hold some; maps hold none in these contracts."""
    return tuple(field for field in descriptor.fields if _holds_enums(field, ()))


def _holds_enums(field: FieldDescriptor, above: tuple[Descriptor, ...]) -> bool:
    if field.enum_type is not None:
        return True
    inner = field.message_type
    if inner is None or inner in above or inner.GetOptions().map_entry:
        return False
    return any(_holds_enums(each, (*above, inner)) for each in inner.fields)
