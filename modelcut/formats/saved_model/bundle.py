"""TensorFlow checkpoints: `variables.index`, a table of what lies where, and shards of raw data.

See tensorflow/core/util/tensor_bundle/tensor_bundle.cc and tensor_bundle.proto. Every size that the
index declares is compared with the files before anything is allocated, and every tensor that is
read with its checksum. Two keys may point to the same bytes, so that a copy costs nothing.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import google_crc32c
import ml_dtypes
import numpy as np

from modelcut.errors import InputError
from modelcut.formats.saved_model import sstable
from modelcut.formats.saved_model.proto import (
    Message,
    ProtoError,
    put_blob,
    put_fixed32,
    put_integer,
)
from modelcut.safety import printable

STRING, RESOURCE, VARIANT = 7, 20, 21
DTYPES = {
    1: np.dtype("float32"),
    2: np.dtype("float64"),
    3: np.dtype("int32"),
    4: np.dtype("uint8"),
    5: np.dtype("int16"),
    6: np.dtype("int8"),
    8: np.dtype("complex64"),
    9: np.dtype("int64"),
    10: np.dtype("bool"),
    14: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype("uint16"),
    18: np.dtype("complex128"),
    19: np.dtype("float16"),
    22: np.dtype("uint32"),
    23: np.dtype("uint64"),
}
"""TensorFlow's numbers of the types whose bytes NumPy holds as they are."""

_MAX_INDEX = 256 << 20
_MAX_SHARDS = 10_000
_PIECE = 4 << 20
_BOMB_BYTES = 1 << 30
_BOMB_RATIO = 200


@dataclass(frozen=True)
class Entry:
    """One key of a checkpoint.

    Attributes:
        key: as bytes; those of a slice of a partitioned variable are no text.
        dtype: TensorFlow's number.
        shape: of the values.
        shard, offset, size: where the values are.
        crc: masked CRC-32C of them.
        slices: of a partitioned variable, its slices as they are written; the values lie elsewhere.
    """

    key: bytes
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: tuple[bytes, ...] = ()

    @property
    def name(self) -> str:
        """The key as text."""
        return self.key.decode("utf-8", "replace")

    @property
    def numpy(self) -> np.dtype | None:
        """The type of the values, or None where NumPy cannot hold them."""
        return DTYPES.get(self.dtype)

    @property
    def plain(self) -> bool:
        """Whether the values are one array of a known type."""
        return self.numpy is not None and not self.slices


class Bundle:
    """A checkpoint open for reading.

    Attributes:
        entries: by key, in order.
        header: as it was read.
        zeros: keys of entries that are all zero, as far as that is known.
    """

    zeros: frozenset[str] = frozenset()

    def __init__(self, prefix: Path, where: str) -> None:
        """Reads the index.

        Args:
            prefix: of its files, such as `variables/variables`.
            where: the model, for messages.

        Raises:
            InputError: a file is missing, cut short or damaged, or the index declares what the
                shards do not hold.
        """
        self._prefix, self._where = prefix, where
        index = prefix.with_name(prefix.name + ".index")
        if not index.is_file():
            raise InputError(f"{where}: has no {prefix.parent.name}/{index.name}", "copy it again")
        if index.stat().st_size > _MAX_INDEX:
            raise InputError(f"{where}: {index.name} is larger than {_MAX_INDEX >> 20} MiB")
        try:
            rows = sstable.read(index.read_bytes())
            if not rows or rows[0][0]:
                raise ProtoError("its header is missing")
            header = Message(rows[0][1])
            found = [_entry(key, value) for key, value in rows[1:]]
        except ProtoError as error:
            raise InputError(f"{where}: {index.name} is damaged: {error}") from None
        self.header = bytes(rows[0][1])
        self._shards = header.integer(1)
        if header.integer(2):
            raise InputError(f"{where}: the checkpoint is big-endian", "save it on another machine")
        if not 0 <= self._shards <= _MAX_SHARDS:
            raise InputError(f"{where}: {index.name} declares {self._shards} shards")
        self.entries = {entry.key: entry for entry in found}
        self._sizes = [self._size(shard) for shard in range(self._shards)]
        for entry in found:
            self._check(entry)
        declared = sum(entry.size for entry in found)
        if declared > _BOMB_BYTES and declared > _BOMB_RATIO * sum(self._sizes):
            raise InputError(f"{where}: {index.name} declares {declared:.3g} bytes, far more than "
                             "the shards hold")  # fmt: skip

    def in_order(self) -> list[Entry]:
        """The entries in the order in which their values lie."""
        return sorted(self.entries.values(), key=lambda entry: (entry.shard, entry.offset))

    def shard(self, number: int) -> Path:
        """The file of a shard."""
        return shard_path(self._prefix, number, self._shards)

    def _size(self, number: int) -> int:
        path = self.shard(number)
        if not path.is_file():
            raise InputError(f"{self._where}: {path.name} is missing", "copy the model again")
        return path.stat().st_size

    def _check(self, entry: Entry) -> None:
        name = printable(entry.name, 80)
        if any(n < 0 for n in entry.shape):
            raise InputError(f"{self._where}: {name!r} has a shape of {entry.shape}")
        if entry.slices:
            return
        if not 0 <= entry.shard < self._shards:
            raise InputError(f"{self._where}: {name!r} is in a shard that does not exist")
        if entry.offset < 0 or entry.size < 0:
            raise InputError(f"{self._where}: {name!r} has an offset outside the file")
        if entry.offset + entry.size > self._sizes[entry.shard]:
            raise InputError(
                f"{self._where}: {name!r} extends beyond the end of {self.shard(entry.shard).name}",
                "the file is truncated: copy the model again",
            )
        if entry.numpy is not None:
            declared = math.prod(entry.shape) * entry.numpy.itemsize
            if declared != entry.size:
                raise InputError(
                    f"{self._where}: {name!r} declares {declared:.6g} bytes, the checkpoint holds "
                    f"{entry.size}"
                )

    def read(self, entry: Entry) -> np.ndarray:
        """The values of an entry, in a fresh array.

        Raises:
            InputError: they do not match their checksum.
        """
        assert entry.numpy is not None
        values = np.empty(entry.shape, entry.numpy)
        flat = values.reshape(-1).view(np.uint8)
        with self._open(entry) as file:
            if file.readinto(flat.data) != entry.size:
                raise self._damaged(entry)
        if sstable.mask(google_crc32c.value(flat)) != entry.crc:
            raise self._damaged(entry)
        return values

    def pieces(self, entry: Entry) -> Iterator[bytes]:
        """The bytes of an entry as they are; of numbers, the checksum is looked at in the end."""
        crc, left = 0, entry.size
        with self._open(entry) as file:
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    raise self._damaged(entry)
                crc = google_crc32c.extend(crc, piece)
                left -= len(piece)
                yield piece
        # Of texts it is that of their lengths in another form.
        if entry.dtype not in (STRING, VARIANT) and sstable.mask(crc) != entry.crc:
            raise self._damaged(entry)

    def _open(self, entry: Entry) -> io.BufferedReader | io.BytesIO:
        """A file that stands where the values of an entry begin."""
        file = self.shard(entry.shard).open("rb")
        file.seek(entry.offset)
        return file

    def strings(self, entry: Entry) -> list[bytes]:
        """The values of an entry of texts.

        Raises:
            InputError: they are damaged.
        """
        from modelcut.formats.saved_model.proto import read_varint

        data = b"".join(self.pieces(entry))
        try:
            at, lengths = 0, []
            if math.prod(entry.shape) > len(data):
                raise ProtoError("cut short")
            for _ in range(math.prod(entry.shape)):
                length, at = read_varint(data, at)
                lengths.append(length)
        except ProtoError:
            raise self._damaged(entry) from None
        # TensorFlow sums up the lengths as four bytes (eight where they do not fit), their own
        # checksum, and the texts.
        plain = b"".join(n.to_bytes(4 if n < 1 << 32 else 8, "little") for n in lengths)
        check = data[at : at + 4]
        texts = data[at + 4 :]
        if (
            sum(lengths) != len(texts)
            or sstable.mask(google_crc32c.value(plain)) != int.from_bytes(check, "little")
            or sstable.masked_crc(plain + check, texts) != entry.crc
        ):
            raise self._damaged(entry)
        result, start = [], 0
        for length in lengths:
            result.append(texts[start : start + length])
            start += length
        return result

    def same(self, one: Entry, two: Entry) -> bool:
        """Whether two entries hold the same bytes."""
        if (one.dtype, one.shape, one.size) != (two.dtype, two.shape, two.size):
            return False
        if (one.shard, one.offset) == (two.shard, two.offset):
            return True
        return all(a == b for a, b in zip(self.pieces(one), self.pieces(two), strict=True))

    def _damaged(self, entry: Entry) -> InputError:
        return InputError(
            f"{self._where}: {printable(entry.name, 80)!r} does not match its checksum",
            "the file is damaged: copy the model again",
        )


class Shell(Bundle):
    """A checkpoint without the values of the model's tensors, in memory.

    Attributes:
        zeros: keys of the entries that are all zero.
    """

    def __init__(
        self,
        header: bytes,
        entries: Sequence[Entry],
        contents: Mapping[bytes, bytes],
        zeros: frozenset[str],
        where: str,
    ) -> None:
        """Takes over what there is.

        Args:
            header: of the checkpoint that it stands for.
            entries: with offsets that serve only to distinguish them.
            contents: key -> values as they are, of those that have any.
            zeros: keys of the entries that are all zero.
            where: the model, for messages.

        Raises:
            InputError: a size does not match what is there.
        """
        self.header, self.zeros = header, zeros
        self._where, self._contents = where, contents
        self.entries = {entry.key: entry for entry in sorted(entries, key=lambda e: e.key)}
        for entry in entries:
            held = contents.get(entry.key)
            if any(n < 0 for n in entry.shape) or (held is not None and len(held) != entry.size):
                raise self._damaged(entry)

    def _open(self, entry: Entry) -> io.BufferedReader | io.BytesIO:
        held = self._contents.get(entry.key)
        if held is None:
            raise InputError(f"{self._where}: the values of {printable(entry.name, 80)!r} are "
                             "missing")  # fmt: skip
        return io.BytesIO(held)


def shard_path(prefix: Path, number: int, of: int) -> Path:
    """The file of a shard, as TensorFlow names it."""
    return prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{of:05d}")


def _entry(key: bytes, value: bytes) -> Entry:
    message = Message(value)
    shape = message.message(2)
    if shape.integer(3):
        raise ProtoError("a tensor of unknown rank")
    return Entry(
        key=key,
        dtype=message.integer(1),
        shape=tuple(dim.signed(1) for dim in shape.messages(2)),
        shard=message.signed(3),
        offset=message.signed(4),
        size=message.signed(5),
        crc=message.integer(6),
        slices=tuple(bytes(part) for part in message.blobs(7)),
    )


def packed(entry: Entry) -> bytes:
    """An entry as the index holds it."""
    # An axis of length 0 is a message too, an empty one.
    dims = b"".join(put_blob(2, put_integer(1, n)) for n in entry.shape)
    return b"".join(
        (
            put_integer(1, entry.dtype),
            put_blob(2, dims),
            put_integer(3, entry.shard),
            put_integer(4, entry.offset),
            put_integer(5, entry.size),
            put_fixed32(6, entry.crc),
            *(put_blob(7, part) for part in entry.slices),
        )
    )


class BundleWriter:
    """A checkpoint under way, in one shard.

    Attributes:
        index: bytes of the finished index.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._entries: list[Entry] = []
        self._by_sum: dict[tuple[int, int], list[Entry]] = {}
        self._file: IO[bytes] = shard_path(prefix, 0, 1).open("w+b")
        self._at = 0
        self.index = b""

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def copy(self, bundle: Bundle, entry: Entry) -> None:
        """Takes over an entry as it is."""
        if entry.slices:
            self._entries.append(replace(entry, shard=0, offset=0, size=0, crc=0))
            return
        start = self._at
        for piece in bundle.pieces(entry):
            self._file.write(piece)
            self._at += len(piece)
        self._entries.append(replace(entry, shard=0, offset=start))

    def add(self, entry: Entry, values: np.ndarray, more: list[bytes]) -> int:
        """Adds values under the key of an entry, and under the keys `more`, once.

        Returns:
            Bytes that were written for them: 0 where the same bytes are there already.
        """
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        crc = sstable.mask(google_crc32c.value(flat))
        new = replace(entry, shard=0, offset=self._at, size=flat.nbytes, crc=crc)
        known = self._known(new, flat)
        written = 0
        if known is None:
            self._file.write(flat.data)
            self._at += flat.nbytes
            written = flat.nbytes
            self._by_sum.setdefault((crc, new.size), []).append(new)
        else:
            new = replace(new, offset=known.offset)
        self._entries += [new, *(replace(new, key=key) for key in more)]
        return written

    def add_zeros(self, entries: list[Entry]) -> None:
        """Adds entries whose values are all zero: they share the bytes of the longest."""
        start, longest = self._at, max((entry.size for entry in entries), default=0)
        for done in range(0, longest, _PIECE):
            self._file.write(bytes(min(_PIECE, longest - done)))
        self._at += longest
        sums: dict[int, int] = {}
        for entry in entries:
            if entry.size not in sums:
                zeros = np.zeros(entry.size, np.uint8)
                sums[entry.size] = sstable.mask(google_crc32c.value(zeros))
            crc = sums[entry.size]
            self._entries.append(replace(entry, shard=0, offset=start, crc=crc))

    def _known(self, new: Entry, flat: np.ndarray) -> Entry | None:
        """An earlier entry with the very same bytes."""
        if new.size == 0:
            return None
        for old in self._by_sum.get((new.crc, new.size), []):
            self._file.flush()
            if self._equal(old.offset, flat):
                return old
        return None

    def _equal(self, offset: int, flat: np.ndarray) -> bool:
        for start in range(0, flat.nbytes, _PIECE):
            piece = os.pread(self._file.fileno(), min(_PIECE, flat.nbytes - start), offset + start)
            if piece != flat[start : start + _PIECE].tobytes():
                return False
        return True

    def finish(self, header: bytes) -> None:
        """Writes the index.

        Args:
            header: of the checkpoint that was read.
        """
        self._file.flush()
        kept = b"".join(put_blob(3, part) for part in Message(header).blobs(3))
        rows = [(b"", put_integer(1, 1) + kept)]
        rows += [(e.key, packed(e)) for e in sorted(self._entries, key=lambda entry: entry.key)]
        self.index = sstable.write(rows)
        self._prefix.with_name(self._prefix.name + ".index").write_bytes(self.index)
