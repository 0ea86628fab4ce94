"""Protocol buffers on the wire, as far as SavedModels need them: a reader and a writer of fields.

A message is read into its fields by number; what they mean is for the caller to know. Nothing is
decoded before it is asked for, so that a graph of hundreds of MB costs what is looked at.
"""

from __future__ import annotations

Bytes = bytes | memoryview
Field = int | memoryview

MAX_FIELDS = 8_000_000
"""Of one message: more than any graph has nodes, few enough for memory."""


class ProtoError(ValueError):
    """Bytes that are no message."""


class Message:
    """The fields of one message.

    A number that is not there gives what protocol buffers give: 0, nothing, or the empty bytes.
    """

    __slots__ = ("_fields",)

    def __init__(self, data: Bytes = b"") -> None:
        self._fields = _parse(memoryview(data))

    def has(self, number: int) -> bool:
        """Whether the field is there."""
        return number in self._fields

    def numbers(self) -> list[int]:
        """The numbers of the fields that are there."""
        return list(self._fields)

    def raw(self, number: int) -> list[Field]:
        """All values of a field, in order: whole numbers, or bytes."""
        return self._fields.get(number, [])

    def integer(self, number: int) -> int:
        """The last value of an unsigned field."""
        found = self._fields.get(number)
        if found is None:
            return 0
        if not isinstance(found[-1], int):
            raise ProtoError(f"field {number} is not a number")
        return found[-1]

    def signed(self, number: int) -> int:
        """The last value of an int32 or int64 field."""
        return as_signed(self.integer(number))

    def blob(self, number: int) -> memoryview:
        """The last value of a field of bytes."""
        found = self._fields.get(number)
        if found is None:
            return memoryview(b"")
        if not isinstance(found[-1], memoryview):
            raise ProtoError(f"field {number} is not bytes")
        return found[-1]

    def text(self, number: int) -> str:
        """The last value of a text field; what is not UTF-8 is replaced."""
        return str(self.blob(number), "utf-8", "replace")

    def texts(self, number: int) -> list[str]:
        """All values of a text field."""
        return [str(part, "utf-8", "replace") for part in self.blobs(number)]

    def blobs(self, number: int) -> list[memoryview]:
        """All values of a field of bytes."""
        found = self._fields.get(number, [])
        if not all(isinstance(part, memoryview) for part in found):
            raise ProtoError(f"field {number} is not bytes")
        return found  # type: ignore[return-value]

    def message(self, number: int) -> Message:
        """The last submessage; an empty one where there is none."""
        return Message(self.blob(number))

    def messages(self, number: int) -> list[Message]:
        """All submessages."""
        return [Message(part) for part in self.blobs(number)]

    def integers(self, number: int) -> list[int]:
        """A repeated field of int32 or int64, packed or not."""
        result: list[int] = []
        for part in self._fields.get(number, []):
            if isinstance(part, int):
                result.append(as_signed(part))
                continue
            at = 0
            while at < len(part):
                value, at = read_varint(part, at)
                result.append(as_signed(value))
        return result

    def map(self, number: int) -> dict[str, memoryview]:
        """A map from texts to messages (or texts), their bytes not yet looked at."""
        entries = self.messages(number)
        return {entry.text(1): entry.blob(2) for entry in entries}


def as_signed(value: int) -> int:
    """A varint as the int64 that it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def read_varint(data: Bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends.

    Raises:
        ProtoError: it is cut short or too long.
    """
    result = shift = 0
    try:
        while True:
            byte = data[at]
            at += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result & 0xFFFFFFFFFFFFFFFF, at
            shift += 7
            if shift > 63:
                raise ProtoError("a number is too long")
    except IndexError:
        raise ProtoError("cut short") from None


def _parse(data: memoryview) -> dict[int, list[Field]]:
    fields: dict[int, list[Field]] = {}
    at, end, count = 0, len(data), 0
    while at < end:
        tag = data[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        value: Field
        if kind == 0:
            value, at = read_varint(data, at)
        elif kind == 2:
            length = data[at] if at < end else 0x80
            if length < 0x80:
                at += 1
            else:
                length, at = read_varint(data, at)
            value = data[at : at + length]
            at += length
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
            value = int.from_bytes(data[at : at + length], "little")
            at += length
        else:
            raise ProtoError(f"wire type {kind}")
        if at > end or number == 0:
            raise ProtoError("cut short")
        count += 1
        if count > MAX_FIELDS:
            raise ProtoError("more fields than any model has")
        fields.setdefault(number, []).append(value)
    return fields


def varint(value: int) -> bytes:
    """A whole number on the wire."""
    value &= 0xFFFFFFFFFFFFFFFF
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def put_integer(number: int, value: int) -> bytes:
    """A field of a whole number; nothing for 0."""
    return varint(number << 3) + varint(value) if value else b""


def put_fixed32(number: int, value: int) -> bytes:
    """A field of four bytes; nothing for 0."""
    return varint(number << 3 | 5) + value.to_bytes(4, "little") if value else b""


def put_blob(number: int, value: Bytes) -> bytes:
    """A field of bytes or of a message."""
    return varint(number << 3 | 2) + varint(len(value)) + bytes(value)
