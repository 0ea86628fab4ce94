"""Kernels in the integers of Keras' own layers: from floats, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from modelcut.errors import InputError, ModelcutError
from modelcut.graph.architecture import Architecture
from modelcut.graph.keras import classes, integers, quantized
from modelcut.graph.keras.integers import Layout
from modelcut.graph.node import Path
from modelcut.model.encoding import Dense, Encoding, Fixed
from modelcut.model.encodings.affine import Affine
from modelcut.model.encodings.keras_int import KerasInt
from modelcut.model.model import Layer, Model, Source, Tensor

_EPSILON = np.float32(1e-7)
"""`keras.config.epsilon()`, which Keras adds to the largest magnitude."""


def layouts(model: Model) -> dict[Path, Layout | str]:
    """How each layer that owns weights would hold its kernel in integers, or why it cannot."""
    if model.architecture is None:
        return {}
    found: dict[Path, Layout | str] = {}
    for layer in model.layers:
        if not layer.tensors or layer.node is None:
            continue
        reason = integers.refusal(layer.class_name, layer.config, layer.node.entry)
        if reason:
            found[layer.path] = reason
            continue
        kernel = layer.by_role.get(integers.CLASSES[layer.class_name])
        found[layer.path] = (
            "has no kernel of its own"
            if kernel is None
            else integers.layout(layer.class_name, layer.config, kernel.shape)
        )
    return found


def _fed(architecture: Architecture) -> dict[Path, classes.Shape | None]:
    try:
        return architecture.input_shapes()
    except ModelcutError:  # of a graph that cannot be followed: int8 layers do without
        return {}


def kept(encoding: Affine, layout: Layout, stored: int) -> KerasInt | None:
    """The grid of a tensor as one that Keras can hold, to the bit; None where it cannot.

    Args:
        encoding: of the tensor.
        layout: how its layer holds it.
        stored: bits in which Keras stores each code: 8 or 4.
    """
    if encoding.width > stored:
        return None
    symmetric, grouped = encoding.zero_point is None, bool(encoding.group)
    if stored == 8 and (grouped or not symmetric):
        return None
    if stored == 4 and not layout.is_matrix:
        return None
    if grouped and (encoding.group_axis not in layout.contracted or len(layout.contracted) > 1):
        return None
    varied = [
        axis
        for axis in layout.contracted
        for part in (encoding.scale, encoding.zero_point)
        if part is not None and part.ndim and part.shape[axis] > 1
    ]
    if varied and not grouped:
        return None
    return KerasInt(
        encoding.width, encoding.scale, encoding.zero_point, encoding.group, encoding.group_axis,
        stored=stored,
    )  # fmt: skip


def grid(values: np.ndarray, layout: Layout, stored: int, block: int | None) -> KerasInt:
    """The grid that Keras itself would choose for these values.

    Args:
        values: the kernel, float.
        layout: how its layer holds it.
        stored: 8 or 4 bits.
        block: of 4 bits, how many values along the contracted axis, where there is one, have a
            scale and a zero point of their own; None: one scale for each output, no zero points.
    """
    values = values.astype(np.float32, copy=False)
    if block is None or len(layout.contracted) > 1:
        most = np.abs(values).max(axis=layout.contracted, keepdims=True)
        steps = np.float32((1 << (stored - 1)) - 1)
        return KerasInt(stored, (most + _EPSILON) / steps, stored=stored)
    axis = layout.contracted[0]
    size = values.shape[axis]
    starts = np.arange(0, size, block)
    # Keras leaves zero out where all values of a block have one sign, and clips most of them then.
    low = np.minimum(np.minimum.reduceat(values, starts, axis=axis), 0)
    high = np.maximum(np.maximum.reduceat(values, starts, axis=axis), 0)
    scale = (high - low + _EPSILON) / np.float32(15)
    zero = np.clip(np.rint(-low / scale), 0, 15).astype(np.int32)
    return KerasInt(4, scale.astype(np.float32), zero, block, axis, stored=4)


def mode(encoding: KerasInt, layout: Layout) -> str:
    """The mode in the layer's dtype policy: "int8", "int4/-1", "int4/128"."""
    if encoding.stored == 8:
        return "int8"
    if encoding.group or encoding.zero_point is not None:
        return f"int4/{encoding.group or layout.matrix[layout.cut]}"
    return "int4/-1"


def stored(values: np.ndarray, encoding: KerasInt, layout: Layout) -> dict[str, np.ndarray]:
    """What a layer of Keras holds in the place of a kernel.

    Args:
        values: the kernel, on the grid.
        encoding: the grid.
        layout: how the layer holds it.

    Returns:
        "": the codes, int8, two a byte in int4; "_scale"; and in blocks "_zero" and "g_idx".
    """
    codes = encoding.signed(values)
    scale = encoding.scale.astype(np.float32)
    scale = scale.reshape(scale.shape or (1,) * len(layout.shape))
    if encoding.stored == 8:
        wide = [1 if axis in layout.contracted else n for axis, n in enumerate(layout.shape)]
        return {"": codes, "_scale": np.float32(1) / layout.of_layer(np.broadcast_to(scale, wide))}
    rows_columns, cut = layout.matrix, layout.cut
    packed = _packed(codes.reshape(rows_columns))
    block = int(mode(encoding, layout).partition("/")[2])
    if block < 0:
        wide = [1 if axis in layout.contracted else n for axis, n in enumerate(layout.shape)]
        flat = np.broadcast_to(scale, wide).reshape(-1)
        return {"": packed, "_scale": np.float32(1) / flat}
    size = rows_columns[cut]
    counts = [
        (-(-size // block) if axis == layout.contracted[0] else 1)
        if axis in layout.contracted
        else n
        for axis, n in enumerate(layout.shape)
    ]
    shape = (rows_columns[0], counts[1]) if cut else (-(-size // block), rows_columns[1])
    zero = encoding.signed_zero().reshape(scale.shape)
    return {
        "": packed,
        "_scale": np.ascontiguousarray(np.broadcast_to(scale, counts).reshape(shape)),
        "_zero": np.ascontiguousarray(np.broadcast_to(zero, counts).reshape(shape)),
        "g_idx": (np.arange(size) // block).astype(np.float32),
    }


def _packed(codes: np.ndarray) -> np.ndarray:
    """Two codes a byte along the last axis, the first one in the low half."""
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    halves = codes.view(np.uint8) & np.uint8(15)
    return (halves[:, ::2] | (halves[:, 1::2] << np.uint8(4))).view(np.int8)


def _unpacked(packed: np.ndarray, columns: int) -> np.ndarray:
    """The inverse of `_packed`: int8 from -8 to 7."""
    halves = packed.view(np.uint8)
    codes = np.stack([halves & np.uint8(15), halves >> np.uint8(4)], axis=-1).reshape(
        len(packed), -1
    )[:, :columns]
    return ((codes ^ np.uint8(8)).astype(np.int8) - np.int8(8)).astype(np.int8)


def thawed(model: Model, wanted: Callable[[Layer], bool] = lambda _: True) -> Model:
    """The model with floats in the place of Keras' integers; nothing is read yet.

    Args:
        model: of any format.
        wanted: which of its layers.
    """
    if model.architecture is None or not any(map(is_int, model.layers)):
        return model
    fed = _fed(model.architecture)
    changes, layers = {}, []
    for layer in model.layers:
        made = None
        if is_int(layer) and wanted(layer):
            made = _thawed(layer, fed.get(layer.path))
        if made is not None:
            changes[layer.path] = integers.thawed(layer.config)
        layers.append(layer if made is None else made)
    from modelcut.model import edit  # with the groups of channels, which few files need

    return edit.in_architecture(model, layers, model.architecture.with_configs(changes))


def is_int(layer: Layer) -> bool:
    """Whether Keras holds a layer's kernel in integers that it chose by magnitudes alone."""
    if layer.class_name not in integers.CLASSES:
        return False
    kernel = layer.by_role.get(integers.CLASSES[layer.class_name])
    how = quantized.mode(layer.config)
    return kernel is not None and isinstance(kernel.encoding, Fixed) and how in ("int8", "int4")


def _thawed(layer: Layer, fed: classes.Shape | None) -> Layer | None:
    """A layer with its kernel in floats; None where its shape is not known."""
    role = integers.CLASSES[layer.class_name]
    kernel, scale = layer.by_role[role], layer.by_role.get(f"{role}_scale")
    said: Any = integers.kernel_shape(layer.class_name, layer.config, fed)
    if scale is None or said is None or scale.encoding.kinds != ("dense",):
        return None
    eight = quantized.mode(layer.config) == "int8"
    if eight:
        said = kernel.shape
    elif layer.class_name == "Dense":
        said = (kernel.shape[0], said[1])
    if None in said:
        return None
    layout = integers.layout(layer.class_name, layer.config, said)
    if isinstance(layout, str) or (not eight and not layout.is_matrix):
        return None
    zero = layer.by_role.get(f"{role}_zero")
    spec = classes.weights(layer.class_name, layer.config)[0]
    index = layer.by_role.get("g_idx")
    if (zero is None) != (index is None):
        return None
    blocks = (zero.source.read, index.source.read) if zero and index else None
    parts = (kernel.name, kernel.source.read, scale.source.read, blocks)
    made = Tensor(
        name=kernel.name,
        role=role,
        kind=spec.kind,
        shape=layout.shape,
        dtype=np.dtype(np.float32),
        source=Source(partial(_floats, layout, eight, *parts)),
        out_axis=None if spec.out_axis is None else spec.out_axis % len(layout.shape),
        in_axis=None if spec.in_axis is None else spec.in_axis % len(layout.shape),
        encoding=Dense(),
    )
    gone = {f"{role}_scale", f"{role}_zero", "g_idx"}
    tensors = [made if t is kernel else t for t in layer.tensors if t.role not in gone]
    tensors.sort(key=lambda tensor: tensor.role != role)
    return replace(layer, tensors=tuple(tensors))


def _floats(
    layout: Layout,
    eight: bool,
    name: str,
    read: Callable[[], np.ndarray],
    read_scale: Callable[[], np.ndarray],
    blocks: tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]] | None,
) -> np.ndarray:
    """The kernel as Keras computes with it: float32."""
    scale = read_scale().astype(np.float32)
    try:
        with np.errstate(all="ignore"):  # scales of a stranger's may be zero, or no numbers
            if eight:
                flat = read().astype(np.float32) / layout.of_kernel(scale)
            else:
                flat = _unpacked(read(), layout.matrix[1]).astype(np.float32)
                if blocks is None:
                    flat /= scale[:, None] if layout.cut else scale[None]
                else:
                    zero, index = blocks[0]().astype(np.float32), blocks[1]().astype(np.int64)
                    flat -= zero.take(index, layout.cut)
                    flat *= scale.take(index, layout.cut)
            return np.ascontiguousarray(flat.reshape(layout.shape), np.float32)
    except (ValueError, IndexError) as error:
        raise InputError(f"{name}: its scales do not fit its codes: {error}") from None


def on_grid(encoding: Encoding) -> KerasInt | None:
    """The grid of a tensor that is to be held in integers; None: it is not to be."""
    inner = encoding.unmasked
    return inner if isinstance(inner, KerasInt) else None
