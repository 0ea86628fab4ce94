"""The payloads of an open packed file, read as far as they are asked for."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import BinaryIO

from isal import isal_zlib

from modelcut.errors import InputError
from modelcut.formats.mcut.coding import CodingError
from modelcut.formats.mcut.coding.bits import ByteReader

HINT = "copy it again from where it came"
_PIECE = 1 << 20


@dataclass(frozen=True)
class Payloads:
    """Where the payloads are.

    Attributes:
        file: the open file.
        where: its path, for messages.
        starts: where each payload begins.
        lengths: bytes of each.
        checksums: the CRC-32 of each.
    """

    file: BinaryIO
    where: str
    starts: list[int]
    lengths: list[int]
    checksums: list[int]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reader(self, number: int, name: str) -> PayloadReader:
        """Reads one payload.

        Args:
            number: of the payload.
            name: of its tensor, for messages.
        """
        return PayloadReader(self, number, name)

    def check(self, number: int, name: str) -> None:
        """Proves the checksum of one payload.

        Raises:
            InputError: it is damaged, or cut short.
        """
        reader = self.reader(number, name)
        while reader.left:
            reader.take(min(reader.left, _PIECE))
        reader.prove()

    def read(self, start: int, count: int) -> bytes:
        """Bytes of the file."""
        with self._lock:
            self.file.seek(start)
            return self.file.read(count)


class PayloadReader(ByteReader):
    """Reads a payload from its file, in order."""

    def __init__(self, payloads: Payloads, number: int, name: str) -> None:
        """Begins at the beginning; see `Payloads.reader`."""
        super().__init__(b"")
        self._payloads, self._number, self._name = payloads, number, name
        self._checksum = 0

    @property
    def left(self) -> int:
        """Bytes that have not been read yet."""
        return self._payloads.lengths[self._number] - self.at

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        if count > self.left:
            raise CodingError("a stream ends too soon")
        data = self._payloads.read(self._payloads.starts[self._number] + self.at, count)
        if len(data) < count:
            raise InputError(f"{self._payloads.where}: {self._name} is truncated", HINT)
        self._checksum = isal_zlib.crc32(data, self._checksum)
        self.at += count
        return memoryview(data)

    def prove(self) -> None:
        """All was read: its checksum must be right.

        Raises:
            InputError: it is not.
        """
        if self.left or self._checksum != self._payloads.checksums[self._number]:
            where = self._payloads.where
            raise InputError(f"{where}: {self._name} is damaged: its checksum does not match", HINT)
