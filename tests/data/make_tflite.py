"""Makes the golden files of `tflite/`: one small network, as LiteRT's converter writes it.

    python tests/data/make_tflite.py

`base.h5` is as trained (not really), `tiny.h5` the same on grids of several kinds: the first
convolution has a BatchNorm, which the converter folds into it. Each `.tflite` is of `tiny.h5`,
before modelcut puts its grids in. `endless.tflite` never comes to an end. They are checked in, so
that the tests need neither this script nor TensorFlow.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
HERE = Path(__file__).parent / "tflite"
TYPES = ("float32", "dynamic", "int4", "int8", "int16x8")
STEPS = (HERE / "steps.yaml").read_text(encoding="utf-8")


def base():
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.DepthwiseConv2D(3, name="deep"),
            layers.Flatten(name="flat"),
            layers.Dense(16, activation="relu", name="wide"),
            layers.Dense(4, activation="softmax", name="last"),
        ]
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name == "moving_variance":
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        elif weight.name in ("gamma", "beta", "moving_mean", "bias"):
            weight.assign(rng.normal(size=weight.shape))
    model.save(HERE / "base.h5")


def rows():
    rng = np.random.default_rng(1)
    names = ",".join(f"p{i}" for i in range(64))
    lines = [",".join(f"{v:.3f}" for v in rng.normal(size=64)) for _ in range(64)]
    (HERE / "rows.csv").write_text("\n".join([names, *lines]) + "\n")


def convert(kind):
    from modelcut.engines.litert import converter, network

    calibrated = kind in ("int8", "int16x8")
    conversion = network.Conversion(
        source=str(HERE / "tiny.h5"),
        shown="tiny.h5",
        dialect="keras3",
        suffix=".h5",
        target=str(HERE / f"{kind}.tflite"),
        metadata="modelcut",
        signature="",
        type=kind,
        io="int8" if kind == "int8" else "float32",
        samples=32,
        calibrate=str(HERE / "rows.csv") if calibrated else None,
    )
    converter.convert({**asdict(conversion), "seconds": {"stage": 600, "row": 60}})


def endless():
    """n = 0; while n < 1: n = n + 0; the input passes by."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name, buffer=0, kind=schema.TensorType.FLOAT32, shape=(1,)):
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), kind, buffer
        return made

    def operator(index, inputs, outputs, options=None, kind=0):
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = index, inputs, outputs
        made.builtinOptions, made.builtinOptionsType = options, kind
        return made

    def graph(tensors, inputs, outputs, operators):
        made = schema.SubGraphT()
        made.tensors, made.inputs, made.outputs, made.operators = (
            tensors,
            inputs,
            outputs,
            operators,
        )
        return made

    def code(number):
        made = schema.OperatorCodeT()
        made.builtinCode = number
        made.deprecatedBuiltinCode = min(number, 127)
        return made

    loop = schema.WhileOptionsT()
    loop.condSubgraphIndex, loop.bodySubgraphIndex = 1, 2
    ops, kinds = schema.BuiltinOperator, schema.BuiltinOptions
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes = [code(ops.WHILE), code(ops.LESS), code(ops.ADD)]
    model.buffers = [schema.BufferT(), schema.BufferT(), schema.BufferT()]
    for buffer, value in zip(model.buffers[1:], (1e30, 0.0), strict=True):
        buffer.data = np.frombuffer(np.float32(value).tobytes(), np.uint8)
    boolean = schema.TensorType.BOOL
    less = operator(1, [1, 2], [3], schema.LessOptionsT(), kinds.LessOptions)
    add = operator(2, [1, 2], [3], schema.AddOptionsT(), kinds.AddOptions)
    whole = operator(0, [0, 1], [2, 3], loop, kinds.WhileOptions)
    x, y = tensor("x", shape=(1, 1)), tensor("y", shape=(1, 1))
    nothing, n = tensor("nothing", 2), tensor("n")
    model.subgraphs = [
        graph([x, nothing, y, n], [0], [2], [whole]),
        graph([x, n, tensor("most", 1), tensor("go", 0, boolean)], [0, 1], [3], [less]),
        graph([x, n, nothing, tensor("sum")], [0, 1], [0, 3], [add]),
    ]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (HERE / "endless.tflite").write_bytes(builder.Output())


def main():
    from modelcut.job import pipeline
    from modelcut.job.request import Job
    from modelcut.recipe import recipe, yaml_text

    HERE.mkdir(exist_ok=True)
    endless()
    rows()
    base()
    steps = recipe.parse(yaml_text.loads(STEPS, "tiny"))
    job = Job(HERE / "base.h5", steps, HERE / "tiny.h5", force=True, report=False)
    pipeline.run(job)
    for kind in TYPES:
        convert(kind)


if __name__ == "__main__":
    main()
