"""Makes the SavedModels of `saved_models/`, zipped, each with reference inputs and outputs.

Run once for each kind, in a process of its own:

    for kind in keras3 tf_keras module v1; do python tests/data/make_saved_models.py $kind; done

The files are checked in, so that the tests need neither this script nor TensorFlow.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
HERE = Path(__file__).parent / "saved_models"
WORDS = ["<unk>", "red", "green", "blue"]


def keras3(folder):
    import keras

    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.layers.Input((6, 6, 1)),
            keras.layers.Conv2D(3, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.DepthwiseConv2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    model.export(folder, verbose=False)
    return {"x": np.random.default_rng(1).normal(size=(3, 6, 6, 1)).astype("float32")}


def tf_keras(folder):
    import tf_keras as keras

    keras.utils.set_random_seed(7)
    inside = keras.Sequential(
        [keras.layers.Input((8,)), keras.layers.Dense(5, "relu", name="hidden")], name="inside"
    )
    start = keras.layers.Input((6,), name="start")
    hidden = keras.layers.Dense(8, activation="tanh", name="wide")(start)
    hidden = keras.layers.BatchNormalization(name="norm")(hidden)
    end = keras.layers.Dense(3, activation="softmax", name="end")(inside(hidden))
    model = keras.Model(start, end, name="outer")
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(8, 6)), rng.integers(0, 3, 8), verbose=0)
    model.save(folder, save_format="tf")
    return {"start": rng.normal(size=(3, 6)).astype("float32")}


def module(folder):
    """No Keras: names that say nothing, words and whole numbers as inputs, a vocabulary."""
    import tensorflow as tf

    vocabulary = Path(tempfile.mkdtemp()) / "words.txt"
    vocabulary.write_text("\n".join(WORDS) + "\n")

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            rng = np.random.default_rng(3)

            def make(*shape):
                return tf.Variable(rng.normal(size=shape).astype("float32"))

            self.rows = make(4, 5)  # looked up
            self.one = make(5, 8)  # multiplied
            self.two = make(6, 8)  # multiplied, transposed
            self.three = make(6, 2, 3)  # in an einsum
            self.filters = make(3, 2, 3)  # a convolution over one axis
            self.shift = make(8)
            self.centre, self.spread = make(1, 8), tf.Variable(np.full((1, 8), 2.0, "float32"))
            self.idle = make(7, 7)
            start = tf.lookup.TextFileInitializer(
                str(vocabulary),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            )
            self.table = tf.lookup.StaticHashTable(start, 0)

        @tf.function(
            input_signature=[
                tf.TensorSpec((None,), tf.string, "word"),
                tf.TensorSpec((None, 5), tf.int32, "counts"),
            ]
        )
        def score(self, word, counts):
            found = tf.gather(self.rows, self.table.lookup(word))
            hidden = (found + tf.cast(counts, tf.float32)) @ self.one + self.shift
            hidden = (hidden - self.centre) * tf.math.rsqrt(self.spread)
            hidden = tf.nn.relu(tf.matmul(hidden, self.two, transpose_b=True))
            hidden = tf.einsum("bi,iot->bto", hidden, self.three)
            hidden = tf.nn.conv1d(hidden, self.filters, 1, "SAME")
            return {"score": tf.nn.softmax(tf.reduce_sum(hidden, 1))}

        @tf.function(input_signature=[tf.TensorSpec((None, 5), tf.float32, "point")])
        def embed(self, point):
            return {"embedding": point @ self.one}

    net = Net()
    tf.saved_model.save(net, folder, {"serving_default": net.score, "embed": net.embed})
    counts = np.random.default_rng(1).integers(0, 3, (3, 5)).astype("int32")
    return {"word": np.array([b"red", b"blue", b"pink"]), "counts": counts}


def v1(folder):
    """As TensorFlow 1 saved them: reference and resource variables, a session, a main op."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    rng = np.random.default_rng(5)
    with tf.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        x = tf1.placeholder(tf.float32, [None, 6], "x")

        def variable(name, *shape, positive=False):
            values = rng.normal(size=shape).astype("float32")
            return tf1.get_variable(name, initializer=np.abs(values) + 1 if positive else values)

        with tf1.variable_scope("dense", use_resource=False):
            hidden = tf.nn.bias_add(tf.matmul(x, variable("kernel", 6, 5)), variable("bias", 5))
        with tf1.variable_scope("norm", use_resource=True):
            hidden = tf.nn.batch_normalization(
                hidden,
                variable("moving_mean", 5),
                variable("moving_variance", 5, positive=True),
                variable("beta", 5),
                variable("gamma", 5),
                1e-3,
            )
        with tf1.variable_scope("out", use_resource=True):
            y = tf.nn.softmax(tf.matmul(tf.nn.relu(hidden), variable("w", 5, 3)))
        session.run(tf1.global_variables_initializer())
        tf1.saved_model.simple_save(session, folder, {"x": x}, {"y": y})
    return {"x": rng.normal(size=(3, 6)).astype("float32")}


KINDS = {function.__name__: function for function in (keras3, tf_keras, module, v1)}


def main(kind):
    HERE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / kind
        inputs = KINDS[kind](str(folder))
        import tensorflow as tf

        call = tf.saved_model.load(str(folder)).signatures["serving_default"]
        names = list(call.structured_input_signature[1])
        if len(names) == 1:
            inputs = dict(zip(names, inputs.values(), strict=True))
        outputs = call(**{name: tf.constant(value) for name, value in inputs.items()})
        arrays = {f"input_{name}": value for name, value in inputs.items()}
        arrays |= {f"output_{name}": value.numpy() for name, value in outputs.items()}
        np.savez_compressed(HERE / f"{kind}.npz", **arrays)
        with zipfile.ZipFile(HERE / f"{kind}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    name = path.relative_to(folder).as_posix()
                    archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), 8, 9)


if __name__ == "__main__":
    main(sys.argv[1])
