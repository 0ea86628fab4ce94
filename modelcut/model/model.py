"""The one data structure: layers with named tensors, and where they came from.

A `Model` is immutable and lazy. A step returns a new model whose tensors carry deferred edits;
nothing is computed until `Tensor.pull`, called by a writer, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from modelcut.arrays import buffers
from modelcut.arrays.blocks import ALL, SCALAR, map_rows
from modelcut.arrays.clock import working
from modelcut.errors import InternalError, ModelcutError
from modelcut.model.encoding import Dense, Encoding
from modelcut.model.measure import Count, Difference, Meter, count, difference
from modelcut.model.rewrite import ByRows, Deferred, Edit, Rewrite
from modelcut.model.stream import Stream, Unread, streams

if TYPE_CHECKING:  # a step that edits tensors only has no need of it, nor has its --help
    from modelcut.graph.architecture import Architecture, Node


R = TypeVar("R")


@dataclass(frozen=True)
class Source:
    """Where a tensor's values are.

    Attributes:
        read: returns all values in a fresh, writable, C-contiguous array.
        sample: returns a flat sample, spread over the tensor, of at least about the given number
            of values without reading all; None where reading all costs no more.
        flat: returns the values from one place to another in flat order, in a fresh array, without
            reading others; may be called from several threads. None where that is not possible.
    """

    read: Callable[[], np.ndarray]
    sample: Callable[[int], np.ndarray] | None = None
    flat: Callable[[int, int], np.ndarray] | None = None


@dataclass(frozen=True)
class Tensor:
    """One named array, loaded when asked for.

    Attributes:
        name: unique in the model: the layer's name, "/", the role.
        role: the field's name for it, whatever the file calls it: kernel, bias, gamma …
        kind: what it is for: kernel, bias, norm, embedding, recurrent, state … (`layers.py`);
            kernels and recurrent kernels are what steps aim at by default.
        shape: shape of the values.
        dtype: dtype of the values in the file.
        source: reads the values from the file.
        out_axis: the axis of output channels, or None.
        in_axis: the axis of inputs, or None.
        encoding: what the values in the source are restricted to.
        edits: deferred edits, in order.
        key: where the tensor is in the file it was read from; "" for a new one.
    """

    name: str
    role: str
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype
    source: Source
    out_axis: int | None = None
    in_axis: int | None = None
    encoding: Encoding = field(default_factory=Dense)
    edits: tuple[Deferred, ...] = ()
    key: str = ""

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the values in the source's dtype."""
        return self.size * self.dtype.itemsize

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the encoding that the tensor will have after its edits."""
        return self.edits[-1].kinds if self.edits else self.encoding.kinds

    def then(
        self,
        step: int,
        edit: Edit,
        kinds: tuple[str, ...],
        shape: tuple[int, ...] | None = None,
    ) -> Tensor:
        """This tensor with one more deferred edit; nothing is read.

        Args:
            step: number of the step, from 0.
            edit: what is to be done.
            kinds: of the encoding that it leads to.
            shape: of the values afterwards, where the edit takes slices; None: unchanged.
        """
        edits = (*self.edits, Deferred(step, edit, kinds))
        return replace(self, edits=edits, shape=self.shape if shape is None else shape)

    def pull(
        self, meter: Meter | None = None, *, deflates: bool = False
    ) -> tuple[np.ndarray, Encoding]:
        """Reads the values and passes them through the edits, in place, block by block.

        Peak memory is the tensor itself and some MB a core (twice the tensor for an edit that
        changes the dtype or must see everything at once).

        Args:
            meter: measures the tensor before and after each edit.
            deflates: the caller will, and tells the meter that it is `done_with` the result.

        Raises:
            ModelcutError: the source cannot be read, or an edit fails; it names step and tensor.
            InternalError: an edit leads to another encoding than its step promised.
        """
        with working("read"):
            values, encoding = self.source.read(), self.encoding
        as_promised = True
        if meter:
            meter.read(values, encoding)
        for deferred in self.edits:
            try:
                rewrite = deferred.edit(values, encoding)
                if rewrite.left_alone:
                    if meter:
                        meter.left_alone.append((deferred.step, rewrite.left_alone))
                    as_promised = False  # later promises were made on top of this one
                    continue
                if as_promised:
                    _check_promise(deferred, rewrite.encoding)
                if meter:
                    meter.done_with(values)
                values, seen = _apply(rewrite, values, measured=meter is not None)
            except ModelcutError as error:
                error.message = f"step {deferred.step + 1}, {self.name}: {error.message}"
                raise
            encoding = rewrite.encoding
            if meter:
                meter.edited(deferred.step, values, encoding, seen)
        if meter and not deflates:
            meter.done_with(values)
        return values, encoding

    def map_rows(self, function: Callable[[np.ndarray], R]) -> list[R]:
        """Calls `function` with the values of each block of rows, on all cores, in order.

        Where nothing is to be edited first, the tensor is never in memory as a whole.

        Raises:
            ModelcutError: as of `pull`.
        """
        values: Any = None if self.edits else self._unread()
        if values is None:
            values = np.atleast_1d(self.pull()[0])

        def one(rows: slice) -> R:
            with working("survey"):
                return function(values[rows])

        return map_rows(one, values)

    def stream(self, meter: Meter | None = None) -> Stream | None:
        """Begins to pass the values through the edits without holding them all.

        Args:
            meter: measures the tensor before and after.

        Returns:
            The rows to be, or None where it must be pulled: the source cannot read parts, there
            are several edits, or one that must see everything at once.

        Raises:
            ModelcutError: the edit cannot be planned; as of `pull`.
        """
        unread = self._unread()
        if unread is None or len(self.edits) > 1:
            return None
        if not self.edits:
            return Stream(unread, self.encoding, None, 0, meter)
        deferred = self.edits[0]
        if not isinstance(deferred.edit, ByRows):
            return None
        where = f"step {deferred.step + 1}, {self.name}"
        try:
            rewrite = deferred.edit(unread, self.encoding)
            if rewrite.left_alone:
                if meter:
                    meter.left_alone.append((deferred.step, rewrite.left_alone))
                return Stream(unread, self.encoding, None, 0, meter)
            _check_promise(deferred, rewrite.encoding)
        except ModelcutError as error:
            error.message = f"{where}: {error.message}"
            raise
        assert not rewrite.whole
        assert not rewrite.take
        if rewrite.dtype is not None and rewrite.dtype.kind == "V":  # bfloat16: writers see bytes
            return None
        return Stream(unread, self.encoding, rewrite, deferred.step, meter, where=where)

    def _unread(self) -> Unread | None:
        """The values where they are, if the source can read parts and rows are small."""
        if self.source.flat is None or not streams(self.shape, self.dtype):
            return None
        return Unread(self.shape, self.dtype, self.source.flat)

    def sample(self, count: int) -> np.ndarray:
        """At least about `count` values spread over the tensor, or all, flat, edits applied."""
        if not self.edits and self.source.sample and self.size > count:
            return self.source.sample(count)
        flat = self.pull()[0].ravel()
        return flat[:: max(1, flat.size // count)]


def _check_promise(deferred: Deferred, encoding: Encoding) -> None:
    """Compares the encoding that an edit leads to with the kinds that its step promised.

    Raises:
        InternalError: they differ. What was checked before any work relied on the promise.
    """
    if encoding.kinds != deferred.kinds:
        promised, found = (", ".join(kinds) for kinds in (deferred.kinds, encoding.kinds))
        raise InternalError(
            f"the encoding is of the kinds ({found}), and the step promised ({promised})",
            "internal error of modelcut: please report it with the recipe",
        )


def _apply(
    rewrite: Rewrite, values: np.ndarray, *, measured: bool
) -> tuple[np.ndarray, list[tuple[Difference, Count]]]:
    """The new values, and what was measured of each block while it was at hand."""
    if rewrite.take:
        return _taken(rewrite, values, measured=measured)
    retyped = rewrite.dtype is not None and rewrite.dtype != values.dtype
    result = buffers.empty(values.shape, rewrite.dtype) if retyped else values
    values, target = np.atleast_1d(values), np.atleast_1d(result)  # a scalar has no rows

    def one(rows: slice) -> tuple[Difference, Count] | None:
        with working("edit"):
            target[rows], _, seen = rewrite.of(values[rows], rows, target.dtype, measured=measured)
        return seen

    parts = [one(ALL if values.ndim else SCALAR)] if rewrite.whole else map_rows(one, values)
    return result, [part for part in parts if part is not None]


def _taken(
    rewrite: Rewrite, values: np.ndarray, *, measured: bool
) -> tuple[np.ndarray, list[tuple[Difference, Count]]]:
    """Some slices of the values; what is measured is the loss of the others."""
    result = values
    for axis, indices in rewrite.take:
        result = result.take(indices, axis=axis)
    result = np.ascontiguousarray(result)
    if not measured:
        return result, []
    kept = np.ones((1,) * values.ndim, bool)
    for axis, indices in rewrite.take:
        mask = np.zeros(values.shape[axis], bool)
        mask[indices] = True
        kept = kept & mask.reshape([-1 if i == axis else 1 for i in range(values.ndim)])

    def lost(rows: slice) -> Difference:
        here = kept[rows] if kept.shape[0] > 1 else kept
        return difference(values[rows], np.where(here, values[rows], np.zeros((), values.dtype)))

    parts = map_rows(lost, values)
    counts = map_rows(lambda rows: count(result[rows], rewrite.encoding, rows), result)
    # There are at most as many blocks of what is kept as of the whole.
    nothing: list[Count] = [(0, 0, 0.0, None)] * (len(parts) - len(counts))
    return result, list(zip(parts, counts + nothing, strict=True))


@dataclass(frozen=True)
class Layer:
    """One layer that may own tensors.

    Attributes:
        path: names from the outermost submodel down to the layer.
        class_name: class name as in the file; "" where the file has no architecture.
        config: the layer's configuration, not to be changed.
        tensors: in the order in which Keras saves them.
        node: its node in the architecture; None where the file has none.
    """

    path: tuple[str, ...]
    class_name: str
    config: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    node: Node | None = None

    @property
    def name(self) -> str:
        """The path, joined by "/"."""
        return "/".join(self.path)

    @property
    def by_role(self) -> dict[str, Tensor]:
        """The tensors by role."""
        return {tensor.role: tensor for tensor in self.tensors}


@dataclass(frozen=True)
class Origin:
    """Where a model came from.

    Attributes:
        path: the file.
        format: name of the module in `formats/` whose layout it has.
        container: name of the module that it was packed by, around that format; "" for none.
        dialect: "keras1", "keras2", "keras3", "saved_model", "litert" or "onnx": who can load it,
            and which engine runs it.
        writer: the version that the file says wrote it, such as "keras 2.2.4-tf".
        weights_only: there is no architecture in the file.
        dropped: what a rewrite leaves out by default, in words ("optimizer state, 1.2 MB").
        optimizer_bytes: what the optimizer's state takes in the file, as it is stored there.
        warnings: what a user should know about the file.
        configuration: of a model whose class only its author has, as text: its layers are not in
            it, so that there is no architecture; "" for other models.
        training: the training configuration as text, where it is not part of the architecture.
        provenance: what an earlier modelcut wrote into the file; empty for none.
        checksums: by name, the checksums of the tensors that an earlier modelcut wrote.
        layout: the format's own knowledge, for its writer only.
        rewritten: the model is not as the file has it, so that an engine must be given a copy.
        close: closes the files that the model reads from, and removes what was unpacked.
    """

    path: Path
    format: str
    dialect: str
    writer: str
    weights_only: bool = False
    dropped: tuple[str, ...] = ()
    optimizer_bytes: int = 0
    warnings: tuple[str, ...] = ()
    training: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    layout: Any = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    container: str = ""
    configuration: str = ""
    rewritten: bool = False
    close: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)


@dataclass(frozen=True)
class Model:
    """Layers, the architecture that joins them, and the origin of both.

    A model reads its tensors from its file when they are pulled. As a context manager it closes
    that file at the end, for itself and for all models that steps have derived from it.
    """

    layers: tuple[Layer, ...]
    architecture: Architecture | None
    origin: Origin

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the model's file; its tensors can no longer be pulled. May be called again."""
        self.origin.close()

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All tensors, in the order of the layers."""
        for layer in self.layers:
            yield from layer.tensors

    def with_tensors(self, changed: Mapping[str, Tensor]) -> Model:
        """This model with the tensors of these names replaced."""
        layers = tuple(
            replace(layer, tensors=tuple(changed.get(t.name, t) for t in layer.tensors))
            if any(t.name in changed for t in layer.tensors)
            else layer
            for layer in self.layers
        )
        return replace(self, layers=layers)

    def with_layer(
        self, path: tuple[str, ...], by: tuple[Layer, ...], architecture: Architecture
    ) -> Model:
        """This model with the layer at `path` replaced by others, in an edited architecture."""
        layers = [new for old in self.layers for new in (by if old.path == path else (old,))]
        return replace(self, layers=tuple(layers), architecture=architecture)
