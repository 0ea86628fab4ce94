"""Samples that are no CSV, as a user names them: what `eval` says is what it says of the CSV."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import modelcut as package

DEMO = Path(package.__file__).parent / "demo"
CSV = DEMO / "digits_test.csv"


@pytest.fixture(scope="module")
def samples():
    """The names of the columns, their values without the labels, and the labels."""
    with CSV.open() as file:
        head, *rows = csv.reader(file)
    place = head.index("label")
    values = np.array(rows, np.float32)
    names = [name for name in head if name != "label"]
    return names, np.delete(values, place, 1), values[:, place].astype(int)


def accuracy(modelcut, test, scale="1/16"):
    said = modelcut("eval", DEMO / "digits.h5", "--test", test, "--scale", scale, "--json")
    assert said.code == 0, said
    return json.loads(said.out)["evaluation"]["after"]["metrics"]["accuracy"]


def test_arrays_and_parquet(modelcut, samples, tmp_path):
    names, values, labels = samples
    np.savez(tmp_path / "t.npz", x=values, y=labels)
    columns = {name: values[:, index] for index, name in enumerate(names)}
    pq.write_table(pa.table({**columns, "label": labels}), tmp_path / "t.parquet")
    expected = accuracy(modelcut, CSV)
    assert accuracy(modelcut, tmp_path / "t.npz") == expected
    assert accuracy(modelcut, tmp_path / "t.parquet") == expected


def test_a_folder_of_images(modelcut, samples, tmp_path):
    image = pytest.importorskip("PIL.Image")
    _, values, labels = samples
    for number in range(100):
        folder = tmp_path / "images" / str(labels[number])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (values[number].reshape(8, 8) * 15).astype(np.uint8)
        image.fromarray(pixels).save(folder / f"{number}.png")
    assert accuracy(modelcut, tmp_path / "images", "1/240") > 0.95
