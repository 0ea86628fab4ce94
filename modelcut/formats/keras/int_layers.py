"""Kernels written as the integers of Keras 3's own layers, in a `.keras` file.

The codes take the kernel's place; scales, zero points and the index of blocks follow the layer's
other weights, in the order of `variable_serialization_spec` (keras/src/layers/core/dense.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import h5py

from modelcut.errors import UsageError
from modelcut.formats.base import WriteOptions
from modelcut.formats.keras import hdf5_file
from modelcut.graph.keras import integers
from modelcut.graph.keras.integers import Layout
from modelcut.graph.node import Path
from modelcut.model import keras_ints
from modelcut.model.encoding import Encoding, Fixed
from modelcut.model.model import Layer, Model, Source, Tensor

KIND = "keras_int"


def planned(model: Model, options: WriteOptions) -> dict[Path, Layout]:
    """The layers whose kernels are to be integers, each with how it holds them.

    Raises:
        UsageError: the optimizer's state would not fit them.
    """
    wanted = [layer for layer in model.layers if any(map(is_meant, layer.tensors))]
    if not wanted:
        return {}
    if options.keep_optimizer and model.origin.optimizer_bytes:
        raise UsageError(
            "--keep-optimizer: Keras trains no integers, so the optimizer's state does not fit",
            "leave the option out",
        )
    if options.hollow is not None:
        return {}
    layouts = keras_ints.layouts(model)
    found = {layer.path: layouts.get(layer.path, "") for layer in wanted}
    return {path: layout for path, layout in found.items() if isinstance(layout, Layout)}


def is_meant(tensor: Tensor) -> bool:
    """Whether a tensor is to be written as integers."""
    return tensor.kinds[-1] == KIND


def put(
    new: h5py.File,
    key: str,
    layer: Layer,
    tensor: Tensor,
    layout: Layout,
    options: WriteOptions,
    attributes: Mapping[str, Any],
) -> tuple[int, Encoding]:
    """Pulls a kernel and writes it as its layer holds it in integers; see `hdf5_file.put`.

    Args:
        new: to write into.
        key: of the kernel.
        layer: that owns it.
        tensor: the kernel.
        layout: how the layer holds it.
        options: how to write.
        attributes: of the dataset.
    """
    meter = options.meter(tensor)
    values, encoding = tensor.pull(meter, deflates=True)
    quiet = replace(options, meter=lambda _: None)
    grid = keras_ints.on_grid(encoding)
    if grid is None:  # only its values could tell that it stays in floats
        plain = replace(tensor, source=Source(lambda: values), encoding=encoding, edits=())
        total, _ = hdf5_file.put(new, key, plain, quiet, attributes)
    else:
        total, place = 0, len(layer.tensors)
        group = key.rpartition("/")[0]
        for ending, part in keras_ints.stored(values, grid, layout).items():
            role = ending if ending == "g_idx" else tensor.role + ending
            one = Tensor(
                name=f"{layer.name}/{role}",
                role=role,
                kind=tensor.kind,
                shape=part.shape,
                dtype=part.dtype,
                source=Source(lambda part=part: part),  # type: ignore[misc]
                encoding=Fixed(),
            )
            where = key if not ending else f"{group}/{place}"
            place += bool(ending)
            total += hdf5_file.put(new, where, one, quiet, {} if ending else attributes)[0]
    if meter:
        meter.done_with(values, None if options.compression == "none" else total)
    return total, encoding


def configurations(
    model: Model, encodings: Mapping[str, Encoding], options: WriteOptions
) -> dict[Path, dict[str, Any]]:
    """What the configurations of the layers must say that were written as integers.

    Args:
        model: as it was written.
        encodings: that its tensors ended with.
        options: how it was written.
    """
    layouts = planned(model, options)
    found = {}
    for layer in model.layers:
        for tensor in filter(is_meant, layer.tensors):
            grid, layout = keras_ints.on_grid(encodings[tensor.name]), layouts.get(layer.path)
            if grid is not None and layout is not None:
                found[layer.path] = integers.frozen(layer.config, keras_ints.mode(grid, layout))
    return found
