"""Detects fields of a message that some protobuf libraries read and others ignore.

Python's protobuf library stores an entry of a map as unknown bytes if the entry has a field that is neither its key nor
its value. The C++ library, which TensorFlow uses, drops only the unknown field and reads the entry. The same can happen
to a field with an unusual wire type. Source: protobuf 6, ``upb/wire/decode.c`` (``_upb_Decoder_DecodeToMap``) and
``google/protobuf/map_entry.h``.
"""

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet


def unread_field(message: Message) -> str | None:
    """Return the name of a field of ``message``, or of a message in it, that is declared but was not read, or None.

    Undeclared fields do not count, because a newer TensorFlow may write them.
    """
    pending = [message]
    while pending:
        found = pending.pop()
        declared = found.DESCRIPTOR.fields_by_number
        unknown = UnknownFieldSet(found)
        for number in (unknown[index].field_number for index in range(len(unknown))):
            if number in declared:
                return str(declared[number].full_name)
        for field, value in found.ListFields():
            if field.message_type is None:
                continue
            if field.message_type.GetOptions().map_entry:
                if field.message_type.fields_by_name["value"].message_type is not None:
                    pending += value.values()
            elif isinstance(value, Message):
                pending.append(value)
            else:
                pending += value
    return None
