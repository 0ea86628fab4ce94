"""Ranges and biases of quantized golden files, refined; no TensorFlow is started."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modelcut.engines.litert import biases, ranges, refine
from modelcut.engines.litert.inside import Inside

FILES = Path(__file__).parents[1] / "data" / "tflite"
TWIN = (FILES / "float32.tflite").read_bytes()
INT8 = (FILES / "int8.tflite").read_bytes()


@pytest.fixture(scope="module")
def rows():
    values = np.loadtxt(FILES / "rows.csv", np.float32, delimiter=",", skiprows=1)
    return [[row.reshape(1, 8, 8, 1)] for row in values]


def opened(content):
    file = refine._File(content)
    return file, file.biases(Inside(content))


def shifted(content, by):
    """A file with each bias in whole numbers moved, by this standard deviation."""
    rng = np.random.default_rng(1)
    file, found = opened(content)
    for bias in found:
        biases.shift(bias, by * rng.normal(size=len(bias.tensor.quantization.scale)))
    return file.packed()


def widened(content, factor):
    """The int8 file with the range of its first convolution's output wider, as by one outlier."""
    file, found = opened(content)
    rewritten = {bias.index: bias for bias in found}
    groups = ranges._groups(file.graph, file.operators, rewritten, file.int8)
    first = min(groups)
    for index in groups[first]:
        quantization = file.graph.tensors[index].quantization
        quantization.scale = np.asarray(quantization.scale, np.float32) * np.float32(factor)
    ranges._follow(file.graph, file.operators, rewritten, groups[first])
    return file.packed(), first


def outputs(content, rows):
    inside = Inside(content)
    return [inside.run(row) for row in rows]


def means(content, rows):
    found = outputs(content, rows)
    return [
        np.mean([out[n].reshape(-1, out[n].shape[-1]).mean(axis=0) for out in found], axis=0)
        for n in range(len(found[0]))
    ]


@pytest.mark.parametrize("name", ["int8", "int16x8"])
def test_biases_that_were_shifted_come_back(name, rows):
    broken = shifted((FILES / f"{name}.tflite").read_bytes(), 0.05)
    content, found = refine.refined(broken, TWIN, rows, 60)
    assert found["biases"] == 4
    assert found["mse_after"] < found["mse_before"] / 10
    expected = means(TWIN, rows)
    before, after = (means(version, rows) for version in (broken, content))
    far, near = (
        np.concatenate([np.abs(a - b) for a, b in zip(side, expected, strict=True)]).mean()
        for side in (before, after)
    )
    assert near < far / 5


def test_a_range_that_is_far_too_wide_is_narrowed(rows):
    broken, index = widened(INT8, 10)
    content, found = refine.refined(broken, TWIN, rows, 60)
    assert found["ranges"]
    assert found["mse_after"] < found["mse_before"]
    scales = [
        float(opened(version)[0].graph.tensors[index].quantization.scale[0])
        for version in (INT8, broken, content)
    ]
    assert scales[1] == pytest.approx(10 * scales[0])
    assert scales[2] < 0.5 * scales[1]
    place = Inside(INT8).outputs.index(index)
    expected = outputs(TWIN, rows)
    coarse, fine = (
        sum(
            float(np.square(got[place] - true[place]).sum())
            for got, true in zip(outputs(version, rows), expected, strict=True)
        )
        for version in (broken, content)
    )
    assert fine < coarse


def test_a_bias_follows_the_range_of_what_its_operator_reads(rows):
    other, _ = widened(INT8, 1.5)
    file, found = opened(other)
    for name, operation in file.operators:
        if name in biases.PLACES:
            reads, weights, bias = (file.graph.tensors[int(i)] for i in operation.inputs[:3])
            scale = float(reads.quantization.scale[0]) * np.asarray(weights.quantization.scale)
            np.testing.assert_allclose(bias.quantization.scale, scale, rtol=1e-6)
    assert len(found) == 4
    for old, new in zip(outputs(INT8, rows[:4]), outputs(other, rows[:4]), strict=True):
        for a, b in zip(old, new, strict=True):
            assert np.abs(a - b).max() < 0.1 * np.abs(a).max() + 0.05


def test_only_biases_and_scales_change(rows):
    content, found = refine.refined(shifted(INT8, 0.05), TWIN, rows, 60)
    (first, _), (second, biased) = opened(INT8), opened(content)
    allowed = {bias.tensor.buffer for bias in biased}
    for number, (old, new) in enumerate(
        zip(first.model.buffers, second.model.buffers, strict=True)
    ):
        assert np.array_equal(np.asarray(old.data), np.asarray(new.data)) or number in allowed
    for old, new in zip(first.graph.tensors, second.graph.tensors, strict=True):
        assert (old.name, old.type, list(old.shape)) == (new.name, new.type, list(new.shape))
        if old.quantization is not None and old.quantization.zeroPoint is not None:
            assert list(old.quantization.zeroPoint) == list(new.quantization.zeroPoint)
    for index in (*first.graph.inputs, *first.graph.outputs):
        old, new = (file.graph.tensors[int(index)].quantization for file in (first, second))
        assert np.array_equal(np.asarray(old.scale), np.asarray(new.scale)), index
    assert found["biases"]


def test_it_is_never_worse_on_the_samples_kept_and_the_same_every_time(rows):
    content, found = refine.refined(INT8, TWIN, rows, 60)
    assert found["mse_after"] <= found["mse_before"]
    assert found["samples"] == 48
    assert refine.refined(INT8, TWIN, rows, 60)[0] == content


@pytest.mark.parametrize(
    ("content", "count", "macs", "why"),
    [
        (INT8, 15, 3e11, "too few samples"),
        (TWIN, 64, 3e11, "no bias in whole numbers"),
        (INT8, 64, 1e4, "the network is too large"),
    ],
)
def test_a_file_that_cannot_be_refined_stays(content, count, macs, why, rows, monkeypatch):
    monkeypatch.setattr(refine, "_MOST_MACS", macs)
    same, found = refine.refined(content, TWIN, rows[:count], 60)
    assert same == content
    assert found == {"biases": 0, "ranges": 0, "why": why}
