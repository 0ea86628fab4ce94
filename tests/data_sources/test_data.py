"""CSVs: columns to inputs, cleaning, labels, bounded blocks."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from pydantic import ValidationError

from modelcut.data import DataOptions, InputSpec
from modelcut.data import blocks as room
from modelcut.data.csv import Csv
from modelcut.errors import InputError, UsageError

FOUR = (InputSpec("x", (4,)),)


def read(path, specs=FOUR, size=7, **options):
    table = Csv.open(path, DataOptions(**options), specs)
    batches = list(table.batches(size))
    joined = {
        spec.name: np.concatenate([batch.inputs[spec.name] for batch in batches]) for spec in specs
    }
    labels = None
    if batches[0].labels is not None:
        labels = np.concatenate([batch.labels for batch in batches])
    return joined, labels, table, [len(batch) for batch in batches]


def save(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def numbers(rows=20, columns=4):
    return np.round(np.random.default_rng(0).normal(size=(rows, columns)), 4)


def text(values, labels=None, header="a,b,c,d,label"):
    lines = [header] if header else []
    labels = labels if labels is not None else [i % 3 for i in range(len(values))]
    for row, label in zip(values, labels, strict=True):
        lines.append(",".join([*(f"{value:.4f}" for value in row), str(label)]))
    return "\n".join(lines) + "\n"


def test_values_and_labels_come_as_they_stand(tmp_path):
    values = numbers()
    for header in ("a,b,c,d,label", ""):
        inputs, labels, table, sizes = read(save(tmp_path, text(values, header=header)))
        np.testing.assert_allclose(inputs["x"], values, atol=1e-6)
        np.testing.assert_array_equal(labels[:, 0], [i % 3 for i in range(20)])
        assert inputs["x"].dtype == np.float32
        assert sizes == [7, 7, 6]
        assert table.cleaning.rows_read == table.cleaning.rows_used == 20


def test_blocks_make_no_difference(tmp_path, monkeypatch):
    path = save(tmp_path, text(numbers(2000)))
    whole, labels, _, _ = read(path, size=64)
    monkeypatch.setattr(room, "_BLOCK_BYTES", 4096)
    again, labels_again, _, _ = read(path, size=64)
    np.testing.assert_array_equal(whole["x"], again["x"])
    np.testing.assert_array_equal(labels, labels_again)


def test_bad_rows_in_a_late_block_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "_BLOCK_BYTES", 4096)
    lines = text(numbers(2000)).splitlines()
    lines[1500] = "1,2,oops,4,1"
    path = save(tmp_path, "\n".join(lines))
    with pytest.raises(InputError) as caught:
        read(path)
    assert f"{path}:1501" in str(caught.value)
    assert "'c'" in str(caught.value)
    inputs, _, table, _ = read(path, clean="drop")
    assert len(inputs["x"]) == 1999
    assert table.cleaning.dropped_unreadable == 1


def test_compressed(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(text(numbers()).encode()))
    inputs, _, _, _ = read(path)
    np.testing.assert_allclose(inputs["x"], numbers(), atol=1e-6)


def test_the_label_is_where_it_is_said_to_be(tmp_path):
    values = numbers(6, 5)
    rows = "\n".join(",".join(map(str, row)) for row in values)
    path = save(tmp_path, "a,b,c,d,e\n" + rows)
    for label, column in (("c", 2), (2, 2), (-1, 4), ("a", 0)):
        inputs, labels, _, _ = read(path, label=label)
        np.testing.assert_allclose(labels[:, 0], values[:, column])
        np.testing.assert_allclose(inputs["x"], np.delete(values, column, axis=1), atol=1e-6)
    with pytest.raises(UsageError, match="no column"):
        read(path, label="zzz")


@pytest.mark.parametrize("scale", [0, "0/1", -0.0])
def test_a_factor_of_zero_is_refused(scale):
    with pytest.raises(ValidationError, match="makes all samples alike"):
        DataOptions(scale=scale)


def test_images_are_shaped_and_scaled(tmp_path):
    path = save(tmp_path, text(numbers()))
    image = (InputSpec("image", (2, 2, 1)),)
    inputs, _, _, _ = read(path, image, scale="1/16")
    expected = (numbers() / 16).reshape(-1, 2, 2, 1)
    np.testing.assert_allclose(inputs["image"], expected, atol=1e-6)


def test_several_inputs(tmp_path):
    path = save(tmp_path, text(numbers(), header="one_a,one_b,two_a,two_b,label"))
    two = (InputSpec("two", (2,)), InputSpec("one", (2,)))
    for options in ({}, {"inputs": {"one": "one_*", "two": ["two_a", "two_b"]}}):
        inputs, _, _, _ = read(path, two, **options)
        np.testing.assert_allclose(inputs["one"], numbers()[:, :2], atol=1e-6)
        np.testing.assert_allclose(inputs["two"], numbers()[:, 2:], atol=1e-6)
    other = (InputSpec("x", (1,)), InputSpec("y", (3,)))
    inputs, _, _, _ = read(path, other)
    np.testing.assert_allclose(inputs["y"], numbers()[:, 1:], atol=1e-6)
    with pytest.raises(UsageError, match="no input"):
        read(path, two, inputs={"three": "x*"})


def holes(tmp_path):
    lines = text(numbers()).splitlines()
    lines[3] = "1,,3,4,1"
    lines[5] = "1,inf,3,4,1"
    lines[7] = "1,x,3,4,1"
    return save(tmp_path, "\n".join(lines))


def test_cleaning_is_counted(tmp_path):
    path = holes(tmp_path)
    with pytest.raises(InputError, match=r"t\.csv:4"):
        read(path)
    inputs, _, table, _ = read(path, clean="drop")
    assert len(inputs["x"]) == 17
    found = table.cleaning.to_dict()
    assert (found["dropped_missing"], found["dropped_nonfinite"]) == (1, 1)
    assert found["dropped_unreadable"] == 1
    inputs, _, table, _ = read(path, clean="impute")
    assert len(inputs["x"]) == 20
    assert table.cleaning.imputed_cells == 3
    mean = np.delete(numbers(), [2, 4, 6], axis=0)[:, 1].mean()
    np.testing.assert_allclose(inputs["x"][[2, 4, 6], 1], mean, rtol=1e-4)


def test_outliers(tmp_path):
    values = numbers()
    values[3, 1] = 50.0
    path = save(tmp_path, text(values))
    inputs, _, table, _ = read(path, outliers="drop", outlier_z=3)
    assert len(inputs["x"]) == 19
    assert table.cleaning.dropped_outliers == 1
    inputs, _, table, _ = read(path, outliers="clip", outlier_range=(-5, 5))
    assert inputs["x"][3, 1] == 5
    assert table.cleaning.clipped_cells == 1
    inputs, _, _, _ = read(path)
    assert inputs["x"][3, 1] == 50


def test_a_limit_and_a_delimiter(tmp_path):
    path = save(tmp_path, text(numbers()).replace(",", ";"))
    inputs, _, table, _ = read(path, delimiter=";", limit=5)
    assert len(inputs["x"]) == table.cleaning.rows_read == 5


def test_text_labels_and_text_inputs(tmp_path):
    path = save(tmp_path, text(numbers(6), labels=["cat", "dog"] * 3))
    _, labels, _, _ = read(path)
    assert labels.dtype == object
    assert list(labels[:2, 0]) == ["cat", "dog"]
    path = save(tmp_path, "words,label\nhello there,1\nbye,0\n")
    inputs, _, _, _ = read(path, (InputSpec("words", (1,), "string"),))
    assert inputs["words"].tolist() == [["hello there"], ["bye"]]


def test_options_that_do_nothing_are_errors():
    for options in ({"outliers": "drop"}, {"outlier_z": 3}, {"outlier_range": (3, 1)}):
        with pytest.raises(ValueError, match="outlier"):
            DataOptions(**options)
