"""The bytes of one payload on their way into a file."""

from __future__ import annotations

from typing import BinaryIO

from isal import isal_zlib


class Sink:
    """Appends to a file, and knows the length and the CRC-32 of what it has appended.

    Attributes:
        length: bytes so far.
        checksum: their CRC-32.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Begins where the file is.

        Args:
            file: seekable, open for writing, at its end.
        """
        self._file = file
        self._start = file.tell()
        self.length = 0
        self.checksum = 0

    def write(self, data: bytes) -> None:
        """Appends some bytes."""
        self._file.write(data)
        self.length += len(data)
        self.checksum = isal_zlib.crc32(data, self.checksum)

    def mark(self) -> tuple[int, int]:
        """What `back` needs to come back to here."""
        return self.length, self.checksum

    def back(self, mark: tuple[int, int]) -> None:
        """Drops what was appended since the mark."""
        self.length, self.checksum = mark
        self._file.seek(self._start + self.length)
        self._file.truncate()
