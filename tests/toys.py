"""Toy models in memory and on disk, and the golden files of every era."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np

from modelcut.graph.architecture import Architecture
from modelcut.model.model import Layer, Model, Origin, Source, Tensor

MODELS = Path(__file__).parent / "data" / "models"


def dense(name, units, **more):
    return {"class_name": "Dense", "config": {"name": name, "units": units, **more}}


def toy_model(arrays, config=None, class_name="Dense", class_names=()):
    """A sequential model of dense layers: {layer name: (kernel, bias or None)}.

    Args:
        arrays: the weights.
        config: another architecture.
        class_name: class of the layers.
        class_names: layer name -> class, for those that have another.
    """
    config = config or {
        "class_name": "Sequential",
        "config": {
            "name": "toy",
            "layers": [
                dense(name, kernel.shape[1], activation="relu", use_bias=bias is not None)
                for name, (kernel, bias) in arrays.items()
            ],
        },
    }
    architecture = Architecture.parse(json.dumps(config), "2.4.0", "toy")
    nodes = {node.path[-1]: node for node in architecture.nodes}
    layers = []
    for name, (kernel, bias) in arrays.items():
        parts = [("kernel", "kernel", kernel)]
        parts += [("bias", "bias", bias)] if bias is not None else []
        tensors = tuple(
            Tensor(
                name=f"{name}/{role}",
                role=role,
                kind=kind,
                shape=values.shape,
                dtype=values.dtype,
                source=Source(values.copy),
                out_axis=values.ndim - 1 if kind == "kernel" else None,
                in_axis=values.ndim - 2 if kind == "kernel" else None,
                key=f"{name}/{role}",
            )
            for role, kind, values in parts
        )
        node = nodes[name]
        kind = dict(class_names).get(name, class_name)
        layers.append(Layer((name,), kind, node.config, tensors, node))
    origin = Origin(Path("toy.h5"), "hdf5", "keras2", "Keras 2.4.0")
    return Model(tuple(layers), architecture, origin)


def toy_network(draw=None):
    """A convolution, a batch normalization, a submodel with a dense layer, and a dense layer.

    Args:
        draw: shape -> the values of a kernel; None: normal ones.
    """
    rng = np.random.default_rng(4)
    draw = draw or (lambda shape: (0.3 * rng.normal(size=shape)).astype("float32"))
    inner = dense("hidden", 8, activation="relu", batch_input_shape=[None, 64])
    image = {"name": "conv", "filters": 4, "kernel_size": [3, 3], "activation": "relu"}
    config = {
        "class_name": "Sequential",
        "config": {
            "name": "toy",
            "layers": [
                {"class_name": "Conv2D", "config": {**image, "batch_input_shape": [None, 6, 6, 2]}},
                {"class_name": "BatchNormalization", "config": {"name": "norm", "axis": [3]}},
                {"class_name": "Flatten", "config": {"name": "flat"}},
                {"class_name": "Sequential", "config": {"name": "inner", "layers": [inner]}},
                dense("out", 3, activation="softmax"),
            ],
        },
    }
    architecture = Architecture.parse(json.dumps(config), "2.4.0", "toy")
    weights = {
        ("conv",): {"kernel": draw((3, 3, 2, 4)), "bias": np.full(4, 0.5, "float32")},
        ("norm",): {
            "gamma": np.array([1, 0.5, 2, 1], "float32"),
            "beta": np.array([0.125, 0.25, 0.125, -0.5], "float32"),
            "moving_mean": np.full(4, 0.125, "float32"),
            "moving_variance": np.ones(4, "float32"),
        },
        ("inner", "hidden"): {"kernel": draw((64, 8)), "bias": np.ones(8, "float32")},
        ("out",): {"kernel": draw((8, 3)), "bias": np.ones(3, "float32")},
    }
    kinds = {"gamma": "norm", "beta": "norm", "moving_mean": "state", "moving_variance": "state"}
    layers = []
    for node in architecture.nodes:
        tensors = tuple(
            Tensor(
                name=f"{'/'.join(node.path)}/{role}",
                role=role,
                kind=kinds.get(role, role),
                shape=values.shape,
                dtype=values.dtype,
                source=Source(values.copy),
                out_axis=values.ndim - 1 if role == "kernel" else None,
                in_axis=values.ndim - 2 if role == "kernel" else None,
                key=f"{node.path[-1]}/{role}",
            )
            for role, values in weights.get(node.path, {}).items()
        )
        layers.append(Layer(node.path, node.class_name, node.config, tensors, node))
    origin = Origin(Path("toy.h5"), "hdf5", "keras2", "Keras 2.4.0")
    return Model(tuple(layers), architecture, origin)


def legacy(path, arrays, config=None, version="2.4.0"):
    """A hand-made file: {layer: {weight name: values}}."""
    with h5py.File(path, "w") as file:
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
            if version:
                file.attrs["keras_version"] = version
            root = file.create_group("model_weights")
        else:
            root = file
        root.attrs["layer_names"] = np.array([name.encode() for name in arrays])
        for name, weights in arrays.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = np.array(
                [w.encode() for w in weights] or np.zeros(0, "S1")
            )
            for weight, values in weights.items():
                group[weight] = values


SAVED_MODELS = Path(__file__).parent / "data" / "saved_models"


def saved_model(kind, folder):
    """A golden SavedModel of this kind, unpacked."""
    path = folder / kind
    with zipfile.ZipFile(SAVED_MODELS / f"{kind}.zip") as archive:
        archive.extractall(path)
    return path


def contents(folder):
    """All that is in a folder: name -> bytes, or None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def keras_archive(path, layers, weights, *, root=None, assets=(), version="3.15.0"):
    """A hand-made `.keras` file.

    Args:
        path: where to.
        layers: JSON objects of the layers, in sequence.
        weights: place in the store -> values.
        root: the whole configuration; None: a sequential model of the layers.
        assets: (name, text) of further members.
        version: of Keras.
    """
    config = {"name": "toy", "layers": layers, "build_input_shape": [None, 4]}
    root = root or {"class_name": "Sequential", "module": "keras", "config": config}
    scratch = path.with_name("weights")
    with h5py.File(scratch, "w") as file:
        for place, values in weights.items():
            file[place] = values
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(root))
        archive.write(scratch, "model.weights.h5")
        for name, text in assets:
            archive.writestr(name, text)
    scratch.unlink()
    return path
