"""Networks of every kind in the Keras that is named: built, or loaded again and compared.

`build ENGINE FOLDER` saves them; `compare ENGINE FOLDER` loads each `NAME.SUFFIX` with all files
`NAME.METHOD.SUFFIX` and `NAME.METHOD.same.SUFFIX` beside it, and prints as JSON how far the outputs
of the two are apart, over the largest output.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def nets(k, engine):
    """Name -> a model; `k` is keras or tf_keras."""
    L, I = k.layers, k.Input  # noqa: E741, N806
    made = {}
    made["plane"] = k.Sequential([
        I((12, 11, 6)), L.Conv2D(16, 3, activation="relu", strides=2, padding="same"),
        L.Conv2D(14, (3, 2), dilation_rate=(2, 1), activation="tanh"), L.Conv2D(24, 1, strides=2),
        L.BatchNormalization(), L.Flatten(), L.Dense(20, activation="relu"), L.Dropout(0.5),
        L.Dense(18, use_bias=False),
    ])  # fmt: skip

    x = I((14, 10))
    a = L.Conv1D(12, 3, padding="causal", activation="relu")(x)
    shared = L.Conv1D(12, 3, padding="same")
    a = L.Add()([shared(a), shared(shared(a))])
    a = L.Conv1D(16, 5, strides=2)(a)
    a = L.TimeDistributed(L.Dense(16, activation="relu"))(a)
    a = L.Bidirectional(L.LSTM(8, return_sequences=True))(a)
    made["line"] = k.Model(x, [L.GRU(9)(a), L.SimpleRNN(7)(a)])

    x = I((6, 6, 5, 8))
    a = L.Conv3D(9, 3, padding="same", strides=(1, 2, 1))(x)
    inner = k.Sequential([I((6, 3, 5, 9)), L.Conv3D(10, (2, 3, 2)), L.Flatten(), L.Dense(15)])
    made["space"] = k.Model(x, inner(a))

    x = I((9,), dtype="int32")
    a = L.Embedding(40, 24, mask_zero=True)(x)
    made["text"] = k.Model(x, L.LSTM(6)(a))
    if engine == "keras":
        b = I((5, 8, 8, 6))
        c = L.TimeDistributed(L.Conv2D(12, 3, activation="relu"))(b)
        made["films"] = k.Model(b, L.GlobalAveragePooling3D()(c))
    return made


def inputs(model):
    rng = np.random.default_rng(0)
    found = []
    for one in model.inputs:
        shape = (3, *one.shape[1:])
        if "int" in str(one.dtype):
            found.append(rng.integers(0, 40, shape))
        else:
            found.append(rng.normal(size=shape).astype("float32"))
    return found


def build(k, engine, folder, suffix):
    k.utils.set_random_seed(5)
    for name, model in nets(k, engine).items():
        model.set_weights([0.4 * np.random.normal(size=w.shape) if w.ndim == 1 and name != "plane"
                           else w for w in model.get_weights()])  # fmt: skip
        model.save(folder / f"{name}{suffix}")


def compare(k, folder, suffix):
    found = {}
    for path in sorted(folder.glob(f"*.same{suffix}")):
        other = path.with_name(path.name.replace(".same", ""))
        loaded = [k.models.load_model(each, compile=False) for each in (path, other)]
        given = inputs(loaded[0])
        outputs = [model.predict(given, verbose=0) for model in loaded]
        pairs = zip(*(each if isinstance(each, list) else [each] for each in outputs), strict=True)
        apart = max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)
        found[other.name.removesuffix(suffix)] = apart
    print(json.dumps(found))


if __name__ == "__main__":
    what, engine, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    suffix = ".keras" if engine == "keras" else ".h5"
    if engine == "keras":
        import keras as k
    else:
        import tf_keras as k
    build(k, engine, folder, suffix) if what == "build" else compare(k, folder, suffix)
