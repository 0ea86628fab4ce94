"""What goes into what: every kind of input and output, and what the formats say of each pair."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from toys import MODELS, saved_model

from modelcut.errors import UsageError
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions

OUTPUTS = {
    "`.h5`": "out.h5",
    "`.keras`": "out.keras",
    "SavedModel": "out",
    "`.tar.gz`": "out.tar.gz",
    "`.zip`": "out.zip",
    "`.mcut`": "out.mcut",
    "`.tflite`": "out.tflite",
}


def golden(name):
    return lambda folder: MODELS / name


def folder_of(kind):
    return lambda folder: saved_model(kind, folder)


def packed(make, name):
    def made(folder):
        model = registry.open_model(make(folder))
        path = folder / name
        registry.for_output(path, model).write(model, path, WriteOptions())
        return path

    return made


def keras1(folder):
    """A dense layer as Keras 1.2.2 saved it."""
    path = folder / "keras1.h5"
    layer = {"name": "dense_1", "batch_input_shape": [None, 4], "output_dim": 3}
    config = {"class_name": "Sequential", "config": [{"class_name": "Dense", "config": layer}]}
    with h5py.File(path, "w") as file:
        file.attrs.update(keras_version=b"1.2.2", model_config=json.dumps(config).encode())
        file.create_group("model_weights").attrs["layer_names"] = [b"dense_1"]
        group = file["model_weights"].create_group("dense_1")
        group.attrs["weight_names"] = [b"dense_1_W", b"dense_1_b"]
        group["dense_1_W"] = np.arange(12, dtype="float32").reshape(4, 3)
        group["dense_1_b"] = np.zeros(3, "float32")
    return path


INPUTS = {
    "Keras 3 `.h5`": golden("keras3_cnn.h5"),
    "Keras 3 `.keras`": golden("keras3_cnn.keras"),
    "Keras 2 `.h5`": golden("tf_keras_cnn.h5"),
    "Keras 2 `.keras`": golden("tf_keras_cnn.keras"),
    "Keras 1 `.h5`": keras1,
    "weights only": golden("keras3_cnn.weights.h5"),
    "SavedModel of Keras 2": folder_of("tf_keras"),
    "SavedModel of Keras 3": folder_of("keras3"),
    "SavedModel of a module": folder_of("module"),
    "SavedModel of TensorFlow 1": folder_of("v1"),
    "LiteRT `.tflite`": lambda folder: MODELS.parent / "tflite" / "float32.tflite",
    "its `.tar.gz`": packed(folder_of("tf_keras"), "in.tar.gz"),
    "its `.zip`": packed(folder_of("v1"), "in.zip"),
    "`.mcut` of Keras 3": packed(golden("keras3_cnn.keras"), "in.mcut"),
    "`.mcut` of a SavedModel": packed(folder_of("module"), "in.mcut"),
}
SHOWN = [name for name in INPUTS if not name.startswith(("its", "`.mcut`"))]
"""A packed model goes where the one that it was made of goes."""


def verdict(path, output):
    """yes, by Keras, by LiteRT, or no."""
    model = registry.open_model(path)
    try:
        writer = registry.for_output(Path(output), model)
    except UsageError:
        return "no"
    if not writer.needs_engine(model):
        return "yes"
    return "by LiteRT" if writer.converted else "by Keras"


def rows():
    with tempfile.TemporaryDirectory() as scratch:
        return [
            (name, *(verdict(INPUTS[name](Path(scratch)), out) for out in OUTPUTS.values()))
            for name in SHOWN
        ]
