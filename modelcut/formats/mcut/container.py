"""The packed file `.mcut`: any model file, its tensors coded near their entropy.

Version 2, in order; numbers are varints (LEB128) unless a width is said, all little-endian:

    89 4D 43 55 54 02    magic: 0x89, "MCUT", the version
    length               of the header that follows, its checksum not counted
    header
      count              of tensors
      count × (length, CRC-32 in 4 bytes) of each tensor's payload
      length             of the head, unpacked
      head               packed by zstd after the dictionary `mcut_2.dict` + `mcut_1.dict`, as one
                         frame without its magic number; or as it is, if it is not shorter so
    CRC-32, 4 bytes      of everything before it
    payloads             one behind the other, to the end of the file

The head is msgpack: [format, structure, provenance, records]. `format` names the format (in the
registry) that makes a model of `structure`: all of the original file but the values (see
`Format.strip`). The model's tensors have the numbers 0 .. count - 1; it fixes shape and dtype of
each. `records` has, for each number, the record of its encoding (`encoding.py`), arrays replaced by
their index in the payload, or nil for none.

A payload begins with the encoding's arrays, each as (dtype, rank, lengths, bytes). Then follow a
byte that says how the values are written, and a block (length, bytes) for each 2^22 values, cut
along axis 0:

    0  bytes: a plane for each byte of a value, as it is, by zstd, or one byte throughout
    1  a block of symbols, 0 or 1 a value, and the bytes of the values of 1; the others are zero
    2  before the blocks, up to 256 values; symbols that are their numbers
    3  symbols that are the codes of the encoding

A block of symbols is coded by one of: a single symbol; Huffman codes; runs between symbols that are
not the common one, by Huffman codes, and those others by Huffman codes of their own; the range
coder with a table of probabilities; the range coder with probabilities that follow from neighbours
(the folder `coding`, which states each in full). Version 1 had all but the last, `mcut_1.dict`
alone, and the frame's magic number.

A file is refused unless all checksums hold, all payloads are there and nothing follows them, and
each tensor is of a size that so many bytes can stand for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
from isal import isal_zlib

from modelcut.errors import InputError, ModelcutError
from modelcut.formats import registry
from modelcut.formats.base import Format, Hollow, WriteOptions, Written, opening
from modelcut.formats.mcut import payload as mcut_payload
from modelcut.formats.mcut.coding import CodingError, raw
from modelcut.formats.mcut.coding.bits import ByteReader, varint
from modelcut.formats.mcut.parameters import encoding_of
from modelcut.formats.mcut.payloads import HINT, Payloads
from modelcut.formats.mcut.sink import Sink
from modelcut.formats.mcut.values import Values
from modelcut.model.encoding import Dense, Encoding, Fixed
from modelcut.model.model import Model, Source, Tensor
from modelcut.model.stream import Stream

_MAGIC = b"\x89MCUT"
_VERSION = 2
_VERSIONS = (1, 2)
"""That can be read."""
_ODD = "it was not modelcut that wrote this"

_FREE_BYTES = 512 << 20
_MOST_RATIO = 4096
"""A tensor may unpack to `_FREE_BYTES`, or to so many times its payload."""
_FREE_HEAD = 2 << 20
_HEAD_RATIO = 30


class Packed(Format):
    """A packed file of a model of any packable format."""

    packed = True
    entropy_coded = True
    own_checksums = "the CRC-32C of each part of the file"
    own_coding = "a packed file has coders of its own (--coder)"
    from_modelcut = True

    def sniff(self, path: Path) -> bool:
        """A file that begins with the magic bytes."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC

    def refusal(self, model: Model) -> str:
        """Why this model cannot be packed: only where its format does not offer it."""
        inner = registry.of_model(model)
        if not inner.packable:
            return f"a {model.origin.format} model cannot be packed"
        # Known where the layers are edited; `fixed_graph` tells it before.
        return self.fixed_graph(model) if inner.needs_engine(model) else ""

    def fixed_graph(self, model: Model) -> str:
        """Why the layers cannot be edited on the way into a packed file; "" where they can."""
        if model.origin.format == "saved_model":
            return "a SavedModel cannot be packed while its layers change; write it, and pack that"
        return ""

    def write(self, model: Model, path: Path, options: WriteOptions) -> Written:
        """Packs a model; see `Format`."""
        inner = registry.of_model(model)
        assert inner.packable
        values_path = path.with_name(path.name + ".values")
        directory, records = [], []
        stored: dict[str, int] = {}
        encodings: dict[str, Encoding] = {}
        coders: dict[str, str] = {}
        kept: dict[str, tuple[int, np.dtype]] = {}
        try:
            with values_path.open("wb") as file:
                for number, tensor in enumerate(model.tensors):
                    meter = options.meter(tensor)
                    values: Values | None = tensor.stream(meter)
                    if isinstance(values, Stream):
                        encoding = values.encoding
                    else:
                        values, encoding = tensor.pull(meter)
                    known = encoding if encoding.fits(values.shape) else Dense()
                    sink = Sink(file)
                    packed = mcut_payload.pack(values, known, options.coder, sink)
                    sink.write(_cushion(sink.length, values.nbytes))
                    if isinstance(values, Stream):
                        values.done()
                    directory.append((sink.length, sink.checksum))
                    records.append(packed.record)
                    kept[tensor.name] = number, values.dtype
                    encodings[tensor.name] = encoding
                    stored[tensor.name], coders[tensor.name] = sink.length, packed.coder
                    del values
            structure, shell = inner.strip(
                model,
                path.with_name(path.name + ".structure"),
                replace(options, hollow=Hollow(kept), provenance=dict),
            )
            head = [model.origin.format, structure, _plain(options.provenance()), records]
            with path.open("wb") as file, values_path.open("rb") as source:
                file.write(_header(head, directory))
                shutil.copyfileobj(source, file, 1 << 20)
        finally:
            values_path.unlink(missing_ok=True)
        return Written(stored, encodings, shell.dropped, coders)

    def read(self, path: Path) -> Model:
        """Reads a packed file; see `Format`. Every checksum is proven at once."""
        with opening() as opened:
            try:
                head, payloads = _open(opened.enter_context(path.open("rb")), str(path))
                return self._model(head, payloads, path, opened)
            except CodingError as error:
                raise InputError(f"{path}: damaged: {error}", HINT) from None

    def _model(
        self, head: Any, payloads: Payloads, path: Path, opened: contextlib.ExitStack
    ) -> Model:
        where = str(path)
        count = len(payloads.lengths)
        if not (isinstance(head, list) and len(head) == 4):
            raise CodingError("its head does not have four parts")
        name, structure, provenance, records = head
        inner = registry.by_name(name) if name in registry.names() else None
        if inner is None or not inner.packable:
            raise InputError(f"{where}: holds a file of an unknown format", _ODD)
        if not (
            isinstance(records, list) and len(records) == count and isinstance(provenance, dict)
        ):
            raise CodingError("its head does not match its tensors")
        model, numbers = inner.restore(structure, path)
        opened.callback(model.close)
        tensors = list(model.tensors)
        if sorted(map(str, numbers.values())) != sorted(map(str, range(count))):
            raise CodingError("its structure does not match its tensors")
        if len(tensors) != count or any(tensor.key not in numbers for tensor in tensors):
            raise CodingError("its structure does not match its tensors")
        joined = {t.name: _joined(t, numbers[t.key], records, payloads) for t in tensors}
        origin = replace(
            model.origin,
            container=self.name,
            provenance=_hex(provenance),
            path=path,
            close=opened.close,
        )
        return replace(model.with_tensors(joined), origin=origin)


def _cushion(length: int, nbytes: int) -> bytes:
    """What a payload lacks to say how large its tensor may be: that of a wholly pruned giant."""
    least = -(-nbytes // _MOST_RATIO) if nbytes > _FREE_BYTES else 0
    return bytes(max(0, least - length))


def _plain(value: Any) -> Any:
    """Provenance with digests as bytes: half as long, and no packer finds them in text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef"):
        return bytes.fromhex(value)
    return value


def _hex(value: Any) -> Any:
    """The inverse of `_plain`."""
    if isinstance(value, dict):
        return {str(key): _hex(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hex(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def _header(head: Any, directory: list[tuple[int, int]]) -> bytes:
    data = msgpack.packb(head)
    packed = raw.deflate(data, _dictionary(_VERSION), bare=True)
    if len(packed) >= len(data) or len(data) > _most_head(len(packed)):
        packed = data
    parts = [varint(len(directory))]
    for length, checksum in directory:
        parts += [varint(length), checksum.to_bytes(4, "little")]
    header = b"".join([*parts, varint(len(data)), packed])
    whole = _MAGIC + bytes([_VERSION]) + varint(len(header)) + header
    return whole + isal_zlib.crc32(whole).to_bytes(4, "little")


def _most_head(packed: int) -> int:
    return _FREE_HEAD + _HEAD_RATIO * packed


@lru_cache(maxsize=2)
def _dictionary(version: int) -> bytes:
    """What heads of this version have in common; a released one is never changed."""
    folder = resources.files("modelcut.formats.mcut")
    parts = [f"mcut_{number}.dict" for number in range(version, 0, -1)]
    return b"".join(folder.joinpath(part).read_bytes() for part in parts)


def _open(file: BinaryIO, where: str) -> tuple[Any, Payloads]:
    size = os.fstat(file.fileno()).st_size
    start = ByteReader(file.read(32))
    if bytes(start.take(len(_MAGIC))) != _MAGIC:
        raise InputError(f"{where}: not a packed file")
    version = start.byte()
    if version not in _VERSIONS:
        raise InputError(
            f"{where}: is version {version} of the packed format; this modelcut reads "
            f"versions {_VERSIONS[0]} to {_VERSIONS[-1]}",
            "pip install --upgrade modelcut",
        )
    length = start.varint(1 << 62)
    if start.at + length + 4 > size:
        raise InputError(f"{where}: is truncated in its head", HINT)
    file.seek(0)
    whole = file.read(start.at + length)
    if int.from_bytes(file.read(4), "little") != isal_zlib.crc32(whole):
        raise InputError(f"{where}: its head is damaged: the checksum does not match", HINT)
    reader = ByteReader(memoryview(whole)[start.at :])
    lengths, checksums, starts = [], [], []
    at = len(whole) + 4
    for _ in range(reader.varint(reader.left // 5)):
        lengths.append(reader.varint(1 << 62))
        checksums.append(int.from_bytes(reader.take(4), "little"))
        starts.append(at)
        at += lengths[-1]
    unpacked = reader.varint(_most_head(reader.left))
    data = bytes(reader.rest())
    if len(data) != unpacked:
        data = raw.inflate(data, unpacked, _dictionary(version), bare=version > 1)
    payloads = Payloads(file, where, starts, lengths, checksums)
    if at < size:
        raise InputError(f"{where}: {size - at} bytes follow its end", HINT)
    try:
        return msgpack.unpackb(data, strict_map_key=True), payloads
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CodingError(f"its head is not msgpack ({type(error).__name__})") from None


def _joined(tensor: Tensor, number: int, records: list[Any], payloads: Payloads) -> Tensor:
    """A tensor of the restored model with its values and its encoding."""
    where, name = payloads.where, tensor.name
    payloads.check(number, name)
    length = payloads.lengths[number]
    most = max(_FREE_BYTES, _MOST_RATIO * length)
    if tensor.nbytes > most or tensor.size > most:
        raise InputError(f"{where}: {name} declares {tensor.nbytes:.3g} bytes of {length}")
    shape, dtype, record = tensor.shape, tensor.dtype, records[number]

    def sound(encoding: Encoding) -> Encoding:
        if not encoding.fits(shape):
            raise CodingError("its encoding does not fit it")
        return encoding

    def told(error: Exception) -> ModelcutError:
        what = str(error) or type(error).__name__
        return InputError(f"{where}: {name} is damaged: {what}", _ODD)

    def read() -> np.ndarray:
        try:
            sound(encoding_of(record, payloads.reader(number, name), tensor.size))
            reader = payloads.reader(number, name)
            values = mcut_payload.unpack(record, reader, shape, dtype)[0]
        except (ValueError, TypeError, IndexError, OverflowError, AttributeError) as error:
            raise told(error) from None
        reader.prove()
        return values

    try:
        reader = payloads.reader(number, name)
        encoding = sound(encoding_of(record, reader, tensor.size))
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError) as error:
        raise told(error) from None
    if isinstance(tensor.encoding, Fixed) and encoding.kinds == ("dense",):
        encoding = tensor.encoding
    return replace(tensor, source=Source(read), encoding=encoding)
