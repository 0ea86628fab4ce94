"""Makes the files in `quantized/`: models that Keras 3 has quantized itself, and one with LoRA.

Run with the Keras of the tests' environment: `python tests/data/make_quantized.py`. `expected.npz`
holds inputs and what Keras computed before it saved; a mode that Keras cannot load again has none.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
from keras import layers
from keras.quantizers import AWQConfig, GPTQConfig, Int4QuantizationConfig

HERE = Path(__file__).parent / "quantized"
EXPECTED: dict[str, np.ndarray] = {}


def network():
    given = keras.Input((6,), name="x")
    hidden = layers.Dense(5, activation="relu", name="hidden")(given)
    narrow = layers.Dense(4, use_bias=False, name="narrow")(hidden)
    return keras.Model(given, layers.Dense(3, activation="softmax", name="out")(narrow))


def save(model, name, *, runs=True):
    path = HERE / name
    rows = np.random.default_rng(0).random((4, 6), np.float32)
    if runs:
        EXPECTED[name] = model.predict(rows, verbose=0)
        EXPECTED["rows"] = rows
    model.save(path)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as old:
            members = [(name, old.read(name)) for name in old.namelist()]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
            for member, data in members:
                new.writestr(zipfile.ZipInfo(member), data, zipfile.ZIP_DEFLATED, 9)


def quantized(mode, **config):
    model = network()
    model.quantize(mode, **config)
    return model


def calibrated(kind):
    model = network()
    rows = [np.random.default_rng(1).random((4, 6), np.float32) for _ in range(4)]
    blocks = [model.get_layer(name) for name in ("hidden", "narrow", "out")]
    more = {"num_grid_points": 3} if kind is AWQConfig else {}
    config = kind(
        dataset=rows,
        tokenizer=lambda row: row,
        weight_bits=4,
        num_samples=4,
        sequence_length=6,
        group_size=-1,
        quantization_layer_structure={"pre_block_layers": [], "sequential_blocks": blocks},
        **more,
    )
    model.quantize(config.mode, config=config)
    config.quantization_layer_structure = config.dataset = config.tokenizer = None
    return model


def with_lora():
    model = network()
    for name in ("hidden", "out"):
        layer = model.get_layer(name)
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(np.random.default_rng(2).random(layer.lora_kernel_b.shape))
    return model


def attention():
    given = keras.Input((3, 4), name="x")
    mixed = layers.MultiHeadAttention(2, 3, name="mha")(given, given)
    model = keras.Model(given, layers.TimeDistributed(layers.Dense(2), name="each")(mixed))
    model.quantize("int8")
    return model


def main():
    keras.utils.set_random_seed(5)
    for suffix in (".keras", ".h5"):
        save(quantized("int8"), f"int8{suffix}")
        blocks = Int4QuantizationConfig(block_size=4)
        save(quantized("int4", config=blocks), f"int4_blocks{suffix}")
    whole = Int4QuantizationConfig(block_size=None)
    save(quantized("int4", config=whole), "int4.keras")
    save(quantized("float8"), "float8.keras")
    lora = with_lora()
    save(lora, "lora.h5")
    save(lora, "lora.keras")
    save(calibrated(GPTQConfig), "gptq.keras", runs=False)
    save(calibrated(AWQConfig), "awq.keras", runs=False)
    save_attention = attention()
    save(save_attention, "attention.keras", runs=False)
    np.savez_compressed(HERE / "expected.npz", **EXPECTED)


if __name__ == "__main__":
    main()
