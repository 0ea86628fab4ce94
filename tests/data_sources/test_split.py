"""One source of samples split into two of the same kind, by class."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modelcut.data import DataOptions, InputSpec
from modelcut.data.sources import open_table
from modelcut.data.split import split, split_paths
from modelcut.errors import InputError

COUNT = 60
X = np.arange(COUNT * 4, dtype=np.float32).reshape(COUNT, 4)
Y = np.repeat(["a", "b", "c"], [30, 20, 10])
ONE = (InputSpec("x_in", (2, 2)),)
IMAGE = (InputSpec("x_in", (2, 3, 1)),)


def as_csv(folder):
    path = folder / "s.csv"
    rows = [f"{','.join(map(str, row))},{label}" for row, label in zip(X, Y, strict=True)]
    path.write_text("a,b,c,d,label\n" + "\n".join(rows) + "\n")
    return path


def as_parquet(folder):
    path = folder / "s.parquet"
    columns = {name: X[:, index] for index, name in enumerate("abcd")}
    pq.write_table(pa.table({**columns, "label": Y}), path)
    return path


def as_npz(folder):
    path = folder / "s.npz"
    np.savez(path, x=X, y=Y, names=np.array(["a", "b", "c"]))
    return path


def pictures(folder):
    """An image of each sample; its pixels tell which."""
    for index, label in enumerate(Y):
        (folder / "s" / label).mkdir(parents=True, exist_ok=True)
        pixels = np.full((2, 3), index, np.uint8)
        Image.fromarray(pixels).save(folder / "s" / label / f"{index:02}.png")
    return folder / "s"


def picture_table(folder):
    pictures(folder)
    path = folder / "paths.csv"
    rows = [f"s/{label}/{index:02}.png,{label}" for index, label in enumerate(Y)]
    path.write_text("file,label\n" + "\n".join(rows) + "\n")
    return path


def samples(path, options, inputs):
    """The first value of each sample, with its label."""
    batches = list(open_table(path, options, inputs).batches(16))
    values = np.concatenate([b.inputs["x_in"].reshape(len(b), -1)[:, 0] for b in batches])
    labels = np.concatenate([b.labels for b in batches])[:, 0]
    return list(zip(values.tolist(), labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("make", "inputs", "fields"),
    [
        (as_csv, ONE, {}),
        (as_parquet, ONE, {}),
        (as_npz, ONE, {}),
        (pictures, IMAGE, {}),
        (picture_table, IMAGE, {"images": "file"}),
    ],
)
def test_each_class_is_split_alike(tmp_path, make, inputs, fields):
    options = DataOptions(**fields)
    path = make(tmp_path)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    made = split(open_table(path, options, inputs), 0.2, 0, folder)
    assert made == split_paths(path, folder)
    assert sorted(folder.iterdir()) == sorted(made)
    train, validation = (samples(one, options, inputs) for one in made)
    assert Counter(label for _, label in validation) == {"a": 6, "b": 4, "c": 2}
    assert sorted(train + validation) == sorted(samples(path, options, inputs))
    other = tmp_path / "other"
    other.mkdir()
    again = split(open_table(path, options, inputs), 0.2, 1, other)
    assert samples(again[1], options, inputs) != validation


@pytest.mark.parametrize("often", [0, 30])
def test_labels_that_are_numbers(tmp_path, often):
    """Each is there once, or some of them often: the others are one group."""
    path = tmp_path / "s.npz"
    y = np.where(np.arange(COUNT) < often, 0.0, np.arange(COUNT) / 7)
    np.savez(path, x=X, y=y)
    made = split(open_table(path, DataOptions(), ONE), 0.2, 0, tmp_path)
    train, validation = (samples(one, DataOptions(), ONE) for one in made)
    assert len(validation) == 12
    assert sum(label == 0.0 for _, label in validation) == often / 5
    assert sorted(train + validation) == sorted(samples(path, DataOptions(), ONE))


def test_labels_of_two_outputs(tmp_path):
    path = tmp_path / "s.npz"
    np.savez(path, x=X, kind=Y, size=X[:, :2])
    options = DataOptions(label={"a": "kind", "b": "size"})
    made = split(open_table(path, options, ONE), 0.2, 0, tmp_path)
    train, validation = (samples(one, options, ONE) for one in made)
    assert (len(train), len(validation)) == (48, 12)
    with np.load(made[1]) as found:
        assert len(found["size"]) == 12


def test_arrays_that_hold_no_samples_stay(tmp_path):
    table = open_table(as_npz(tmp_path), DataOptions(), ONE)
    for path in split(table, 0.2, 0, tmp_path):
        assert np.load(path)["names"].tolist() == ["a", "b", "c"]


def test_a_class_of_one_image_cannot_be_in_both(tmp_path):
    folder = pictures(tmp_path)
    (folder / "d").mkdir()
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(folder / "d" / "1.png")
    with pytest.raises(InputError, match="class d has 1 sample, too few"):
        split(open_table(folder, DataOptions(), IMAGE), 0.2, 0, tmp_path)


def test_nothing_left_for_validation(tmp_path):
    table = open_table(as_csv(tmp_path), DataOptions(), ONE)
    with pytest.raises(InputError, match="60 samples cannot be split: none is left for validation"):
        split(table, 0.001, 0, tmp_path)
