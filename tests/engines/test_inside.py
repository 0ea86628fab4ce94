"""What the operators of a `.tflite` give, on golden files; no TensorFlow is started."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelcut.engines.litert.inside import Inside, alike

FILES = Path(__file__).parents[1] / "data" / "tflite"


@pytest.fixture(scope="module")
def opened():
    names = ("float32", "dynamic", "int8", "int16x8")
    return {name: Inside((FILES / f"{name}.tflite").read_bytes()) for name in names}


@pytest.fixture(scope="module")
def row():
    values = np.loadtxt(FILES / "rows.csv", np.float32, delimiter=",", skiprows=1, max_rows=1)
    return [values.reshape(1, 8, 8, 1)]


@pytest.mark.parametrize(("name", "least"), [("dynamic", 48), ("int8", 30), ("int16x8", 40)])
def test_each_operator_of_a_quantized_file_is_near_that_of_its_twin(name, least, opened, row):
    twin, made = opened["float32"], opened[name]
    same = alike(twin, made)
    assert len(same) == len(twin.operators) == len(made.operators)
    assert not {"QUANTIZE", "DEQUANTIZE"} & {*twin.operators, *made.operators}
    expected, found = twin.run(row), made.run(row)
    for number, place in same.items():
        signal, noise = expected[number], expected[number] - found[place]
        ratio = 10 * np.log10(np.square(signal).sum() / max(np.square(noise).sum(), 1e-30))
        assert ratio > least, (twin.names[number], ratio)


def test_files_with_other_operators_are_compared_by_names(opened):
    class Part:
        def __init__(self, operators, names):
            self.operators, self.names = operators, names

    first = Part(("CONV_2D", "ADD", "SOFTMAX"), ("a", "b", "c"))
    second = Part(("ADD", "MUL"), ("b", "a"))
    assert alike(first, second) == {1: 0}


def test_one_row_after_another_gives_its_own_outputs(opened, row):
    made = opened["int8"]
    first = made.run(row)
    made.run([np.zeros_like(array) for array in row])
    again = made.run(row)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
