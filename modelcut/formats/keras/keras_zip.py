"""Keras `.keras`: a zip of config.json, metadata.json and model.weights.h5; or these in a folder.

Written by Keras 3, and by Keras 2 from 2.12 on, with the weights in a store (`_store`).
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import h5py
from isal import isal_zlib

from modelcut.errors import InputError, UnsafeError, UsageError
from modelcut.formats import base
from modelcut.formats import weights as formats_weights
from modelcut.formats.base import Format, WriteOptions, Written, opening
from modelcut.formats.files import MAX_FILES
from modelcut.formats.keras import compiled, hdf5_file, int_layers, portable, store, tfmot
from modelcut.formats.keras import tree as keras_tree
from modelcut.formats.keras.keras_folder import Folder
from modelcut.graph.architecture import Architecture, Dialect, dialect_of, is_own_class
from modelcut.graph.keras import operations
from modelcut.graph.keras.calls import is_functional
from modelcut.graph.node import Node
from modelcut.model.model import Model, Origin, Tensor
from modelcut.safety import json_bytes, load_json, printable

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAX_RATIO = 1100
"""Deflate cannot expand further than 1032 times."""
_END_BYTES = 22 + 65535
_BOMB_BYTES = 1 << 30
_BOMB_RATIO = 20
_MODELS = ("Sequential", "Functional", "Model")


@dataclass(frozen=True)
class KerasArchiveLayout:
    """What the writer must know of the archive that was read.

    Attributes:
        archive: open for reading.
        file: its weights, open for reading; None where wrappers were taken off, so that they are
            written anew.
        metadata: parsed metadata.json.
        architecture, tensors: as read; there is no architecture of a class of the author's own.
    """

    archive: zipfile.ZipFile | Folder
    file: h5py.File | None
    metadata: dict[str, Any]
    architecture: Architecture | None
    tensors: tuple[Tensor, ...]


class KerasArchive(Format):
    """A `.keras` file, or its members in a folder."""

    own_checksums = "the CRC-32 of the archive"
    packable = True

    def sniff(self, path: Path) -> bool:
        """A zip, or a folder with config.json and the weights."""
        if path.is_dir():
            return all((path / name).is_file() for name in (_CONFIG, _WEIGHTS))
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(4)
        return head == b"PK\x03\x04" or (path.suffix == ".keras" and zipfile.is_zipfile(path))

    def read(self, path: Path) -> Model:
        """Reads an archive; see `Format`."""
        where = str(path)
        try:
            with opening() as opened:
                if path.is_dir():
                    return self._read_folder(path, opened)
                _check_count(path)
                archive = opened.enter_context(zipfile.ZipFile(path))
                _check_members(archive, where)
                _check_sum(archive, where)
                weights = opened.enter_context(_seekable(archive, where))
                file = hdf5_file.open_file(weights, f"{where}: {_WEIGHTS}")
                return self._read(archive, opened.enter_context(file), path, opened)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error, ValueError) as error:
            raise InputError(f"{where}: damaged: {printable(str(error), 200)}") from None
        except (OSError, RuntimeError, KeyError) as error:
            raise InputError(f"{where}: damaged: {printable(str(error), 200)}") from None

    def _read_folder(self, path: Path, opened: contextlib.ExitStack) -> Model:
        folder = Folder(path)
        if not (path / _METADATA).is_file():
            raise InputError(
                f"{path}: has no {_METADATA}", "it is not a .keras model, or is truncated"
            )
        file = hdf5_file.open_file(str(path / _WEIGHTS), f"{path}: {_WEIGHTS}")
        return self._read(folder, opened.enter_context(file), path, opened)

    def _read(
        self,
        archive: zipfile.ZipFile | Folder,
        file: h5py.File,
        path: Path,
        opened: contextlib.ExitStack,
    ) -> Model:
        where = str(path)
        config = _text(archive, _CONFIG, where)
        metadata = load_json(_text(archive, _METADATA, where), where=where, what=_METADATA)
        metadata = metadata if isinstance(metadata, dict) else {}
        version = metadata.get("keras_version")
        version = version if isinstance(version, str) else None
        stripped = tfmot.strip(config, where)
        architecture = None
        if own := is_own_class(load_json(config, where=where, what="model configuration")):
            layers = store.of_own_class(file, where)
            dialect = dialect_of(version or "3")
        else:
            rename = tfmot.store_names(config, stripped, version, where)
            architecture = Architecture.parse(stripped.text, version, where)
            layers = store.read(file, architecture, where, rename)
            dialect = architecture.dialect
        encodings, warnings = hdf5_file.get_encodings(file, where)
        found, more = formats_weights.with_encodings(layers, encodings)
        optimizer, stored = store.optimizer_bytes(file, store.OPTIMIZER)
        provenance = metadata.get("modelcut")
        return Model(
            found,
            architecture,
            Origin(
                path=path,
                format=self.name,
                dialect=dialect.value,
                writer=f"Keras {architecture.keras_version if architecture else version or 3}",
                configuration=config if own else "",
                dropped=(f"optimizer state, {optimizer:,} bytes",) if optimizer else (),
                optimizer_bytes=stored,
                warnings=(
                    *stripped.warnings,
                    *warnings,
                    *more,
                    *formats_weights.unloadable(layers),
                ),
                provenance=provenance if isinstance(provenance, dict) else {},
                checksums=hdf5_file.get_checksums(file, where),
                layout=KerasArchiveLayout(
                    archive,
                    None if stripped.names else file,
                    metadata,
                    architecture,
                    store.tensors_of(layers),
                ),
                rewritten=bool(stripped.names),
                close=opened.close,
            ),
        )

    def refusal(self, model: Model) -> str:
        """Why `.keras` cannot hold this model."""
        if model.origin.format == self.name:
            return ""
        if model.architecture is None and model.origin.format == "saved_model":
            return base.NO_LAYERS
        if model.architecture is None:
            return "bare weights have no architecture to put into a .keras file; name it .h5"
        dialect = model.architecture.dialect
        if dialect is Dialect.KERAS1:
            return (
                f"written by {model.origin.writer}, which has no .keras files; name the output .h5"
            )
        if model.architecture.root["class_name"] not in _MODELS:
            own = printable(str(model.architecture.root["class_name"]))
            return f"the model's class {own} is its author's own; name the output .h5"
        for layer in model.layers:
            cuda = [name for name in _classes(layer.node) if name.startswith("CuDNN")]
            if cuda and dialect is Dialect.KERAS2:
                return f"Keras 2 loads no {cuda[0]} from a .keras file; name the output .h5"
            if layer.tensors and layer.node and store.places(layer.node, dialect) is None:
                return (
                    f"modelcut does not know where a .keras file keeps the weights of a "
                    f"{printable(layer.class_name)} ({printable(layer.name)}); name the output .h5"
                )
        return portable.into_keras(model)

    def write(self, model: Model, path: Path, options: WriteOptions) -> Written:
        """Writes an archive; see `Format`."""
        weights = path.with_name(path.name + ".weights")
        try:
            written = _write_weights(model, weights, options)
            said = int_layers.configurations(model, written.encodings, options)
            if said:
                assert model.architecture is not None
                model = replace(model, architecture=model.architecture.with_configs(said))
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in _members(model, options.provenance()):
                    if name == _WEIGHTS:
                        _put_file(archive, name, weights)
                    elif data is None:
                        _put_member(archive, name, model.origin.layout.archive)
                    else:
                        _put(archive, name, data)
        finally:
            weights.unlink(missing_ok=True)
        return written

    def strip(self, model: Model, scratch: Path, options: WriteOptions) -> tuple[Any, Written]:
        """See `Format`: the members, and the weights without values as a tree."""
        assert options.hollow is not None
        try:
            written = _write_weights(model, scratch, options)
            with h5py.File(scratch, "r") as file:
                tree = keras_tree.to_data(file, options.hollow.places)
        finally:
            scratch.unlink(missing_ok=True)
        return [[[name, data] for name, data in _packed_members(model)], tree], written

    def restore(self, data: Any, path: Path) -> tuple[Model, dict[str, int]]:
        """See `Format`."""
        where = str(path)
        try:
            members, tree = data
            archive = zipfile.ZipFile(io.BytesIO(), "w")
            for name, content in members:
                archive.writestr(_info(name, 0), content or b"")
            with opening() as opened:
                file, numbers = keras_tree.to_file(tree, where)
                opened.enter_context(file)
                return self._read(archive, file, path, opened), numbers
        except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f"{where}: damaged: {printable(str(error), 200)}") from None


def _check_count(path: Path) -> None:
    """Refuses an archive of more members than any model has, before all of them are listed."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END_BYTES))
        tail = file.read(_END_BYTES)
    at = tail.rfind(b"PK\x05\x06")
    if 0 <= at <= len(tail) - 22:
        count, directory = struct.unpack_from("<HI", tail, at + 10)
        if count > MAX_FILES and directory > 46 * MAX_FILES:
            raise InputError(f"{path}: holds more than {MAX_FILES} files")


def _check_members(archive: zipfile.ZipFile, where: str) -> None:
    seen: set[str] = set()
    if len(archive.infolist()) > MAX_FILES:
        raise InputError(f"{where}: holds more than {MAX_FILES} files")
    beside = sum(i.file_size for i in archive.infolist() if i.filename != _WEIGHTS)
    packed = sum(i.compress_size for i in archive.infolist() if i.filename != _WEIGHTS)
    if beside > _BOMB_BYTES and beside > _BOMB_RATIO * packed:
        raise InputError(
            f"{where}: what is beside the weights expands from {packed:,} bytes to {beside:.3g}",
            "vocabularies expand by 10 times; take out what is no part of the model",
        )
    size = Path(str(archive.filename)).stat().st_size
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        if name in seen:
            raise InputError(f"{where}: holds {printable(name)!r} twice")
        seen.add(name)
        climbs = name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]
        if climbs or "\\" in info.filename or (info.external_attr >> 16) & 0o170000 == 0o120000:
            raise UnsafeError(
                f"{where}: the member {printable(info.filename)!r} leads outside the archive"
            )
        if info.file_size > _MAX_RATIO * max(size, 1) or (
            info.file_size > 1 << 20 and info.file_size > _MAX_RATIO * max(info.compress_size, 1)
        ):
            raise InputError(f"{where}: the member {printable(name)!r} is not of the declared size")
    for name in (_CONFIG, _METADATA, _WEIGHTS):
        if name not in seen:
            raise InputError(f"{where}: has no {name}", "it is not a .keras file, or is truncated")


def _check_sum(archive: zipfile.ZipFile, where: str) -> None:
    """Holds the weights against their checksum in the archive, which reading in place skips.

    Raises:
        InputError: they are not what was written.
    """
    info = archive.getinfo(_WEIGHTS)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        return  # inflating compares it
    found = 0
    with _StoredMember(str(archive.filename), info) as member:
        while piece := member.read(1 << 20):
            found = isal_zlib.crc32(piece, found)
    if found != info.CRC:
        raise InputError(
            f"{where}: damaged: the weights do not match their checksum",
            "copy it again from where it came",
        )


def _text(archive: zipfile.ZipFile | Folder, name: str, where: str) -> str:
    if archive.getinfo(name).file_size > json_bytes():
        raise InputError(f"{where}: {name} is larger than {json_bytes() >> 20} MiB")
    with archive.open(name) as file:
        raw = file.read(json_bytes() + 1)
    return raw.decode("utf-8", "replace")


def _seekable(archive: zipfile.ZipFile, where: str) -> IO[bytes]:
    """The weights as a file that HDF5 can seek in."""
    info = archive.getinfo(_WEIGHTS)
    if info.compress_type == zipfile.ZIP_STORED:
        with archive.open(info) as member:
            seekable = member.seekable()
        if seekable:
            return io.BufferedReader(_StoredMember(str(archive.filename), info), 1 << 16)
    if info.file_size > 64 << 30:
        raise InputError(f"{where}: {_WEIGHTS} declares {info.file_size:.3g} bytes")
    spool: IO[bytes] = tempfile.TemporaryFile(prefix="modelcut-")  # noqa: SIM115
    try:
        with archive.open(info) as file:
            while piece := file.read(1 << 20):
                spool.write(piece)
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return spool


class _StoredMember(io.RawIOBase):
    """A stored member of a zip, read in place: no copy, and seeking costs nothing."""

    def __init__(self, path: str, info: zipfile.ZipInfo) -> None:
        self._file = open(path, "rb")  # noqa: SIM115
        self._file.seek(info.header_offset)
        header = self._file.read(30)
        if header[:4] != b"PK\x03\x04":
            self._file.close()
            raise zipfile.BadZipFile("a member does not start where the directory says")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        self._start = info.header_offset + 30 + lengths
        self._size = info.file_size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._start + self._at)
        got = self._file.readinto(memoryview(buffer)[:length])
        self._at += got
        return got

    def close(self) -> None:
        self._file.close()
        super().close()


def archive_of(model: Model) -> zipfile.ZipFile | Folder | None:
    """The archive that a model was read from, with what lies in it beside the weights, or None."""
    return (
        model.origin.layout.archive if isinstance(model.origin.layout, KerasArchiveLayout) else None
    )


def _classes(node: Node | None) -> Iterator[str]:
    """The class of a layer, and of those that it wraps."""
    if node is not None:
        yield node.class_name
        for _, inner in node.wrapped:
            yield from _classes(inner)


def _write_weights(model: Model, weights: Path, options: WriteOptions) -> Written:
    layout = model.origin.layout if isinstance(model.origin.layout, KerasArchiveLayout) else None
    old = layout.file if layout else None
    if old is None and options.keep_optimizer and model.origin.dropped:
        raise UsageError(
            "--keep-optimizer: the optimizer's state cannot be written from "
            f"{model.origin.format} to .keras",
            "leave the option out",
        )
    with hdf5_file.create_file(weights) as new:
        stored, encodings = store.write(model, old, new, options)
    return Written(stored, encodings, () if options.keep_optimizer else model.origin.dropped)


def _members(model: Model, provenance: Mapping[str, Any]) -> Iterator[tuple[str, bytes | None]]:
    """The archive's members in order; None for the weights, and for what is copied as it is."""
    layout = model.origin.layout if isinstance(model.origin.layout, KerasArchiveLayout) else None
    if layout is not None:
        metadata = dict(layout.metadata)
    else:
        assert model.architecture is not None
        version = model.architecture.keras_version
        metadata = {"keras_version": version, "date_saved": "1980-01-01@00:00:00"}
    metadata.pop("modelcut", None)
    metadata["modelcut"] = provenance
    members = layout.archive.infolist() if layout else []
    for name in [info.filename for info in members] or [_METADATA, _CONFIG, _WEIGHTS]:
        if name == _CONFIG:
            yield name, _config_text(model, layout).encode()
        elif name == _METADATA:
            yield name, json.dumps(metadata).encode()
        elif name == _WEIGHTS or (layout is not None and not name.endswith("/")):
            yield name, None


def _packed_members(model: Model) -> Iterator[tuple[str, bytes | None]]:
    """The archive's members in order, None for the weights, to be held in memory.

    Raises:
        InputError: they are too large for that.
    """
    archive = model.origin.layout.archive
    size = sum(info.file_size for info in archive.infolist() if info.filename != _WEIGHTS)
    if size > _BOMB_BYTES:
        raise InputError(f"{model.origin.path}: what is beside the weights takes {size:.3g} bytes")
    for name, data in _members(model, {}):
        yield name, archive.read(name) if data is None and name != _WEIGHTS else data


def _config_text(model: Model, layout: KerasArchiveLayout | None) -> str:
    if layout is not None and model.architecture is None:
        return model.origin.configuration
    assert model.architecture is not None
    if layout is not None:
        return model.architecture.text
    # A legacy .h5 says less of the model as a whole, and keeps how to train it elsewhere.
    root = operations.with_modules(dict(model.architecture.root))
    if "module" not in root and model.architecture.dialect is Dialect.KERAS3:
        functional = is_functional(root)
        root["module"] = "keras.src.models.functional" if functional else "keras"
        root["registered_name"] = "Functional" if functional else None
    elif "module" not in root:
        # Each Keras 2 has its functional models in a module of its own, and all find this one.
        # Layers are written as in .h5: its own files do so too, inside of submodels.
        named = "Model" if is_functional(root) else "Sequential"
        root |= {"module": "keras", "class_name": named, "registered_name": None}
    if model.origin.training:
        where = str(model.origin.path)
        training = load_json(model.origin.training, where=where, what="training configuration")
        root["compile_config"] = compiled.for_keras(training, model.architecture.dialect)
    return json.dumps(root)


def _info(name: str, size: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    # HDF5 has deflated the weights already, chunk by chunk.
    info.compress_type = zipfile.ZIP_STORED if name == _WEIGHTS else zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    info.file_size = size
    return info


def _put(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(_info(name, len(data)), data)


def _put_member(archive: zipfile.ZipFile, name: str, old: zipfile.ZipFile | Folder) -> None:
    """Copies a member, a piece at a time: it may be larger than the memory."""
    info = _info(name, old.getinfo(name).file_size)
    with old.open(name) as source, archive.open(info, "w") as target:
        while piece := source.read(1 << 20):
            target.write(piece)


def _put_file(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    with path.open("rb") as source, archive.open(_info(name, path.stat().st_size), "w") as target:
        while piece := source.read(1 << 20):
            target.write(piece)
