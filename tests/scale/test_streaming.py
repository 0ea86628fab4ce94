"""A CSV that does not fit into memory: all rows once an epoch, mixed, in bounded memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modelcut.data.rows import Rows, _mixed

CHILD = Path(__file__).with_name("streaming_child.py")
ROWS, COLUMNS = 100_000, 200
MEMORY = 8 << 20


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV whose rows take 80 MB as the network takes them, ten times the memory allowed."""
    path = tmp_path_factory.mktemp("streaming") / "rows.csv"
    number = np.arange(ROWS)
    with path.open("wb") as file:
        file.write(",".join([*(f"x{i}" for i in range(COLUMNS)), "label"]).encode() + b"\n")
        for start in range(0, ROWS, 10_000):
            part = number[start : start + 10_000]
            digits = part[:, None] // 10 ** np.arange(5, -1, -1) % 10
            text = np.full((len(part), 2 * COLUMNS + 7), ord(","), np.uint8)
            text[:, 0 : 2 * COLUMNS : 2] = ord("3")
            text[:, 0:12:2] = digits + ord("0")
            text[:, 2 * COLUMNS : -1] = digits + ord("0")
            text[:, -1] = ord("\n")
            file.write(text.tobytes())
    return path


def test_a_csv_larger_than_the_memory(table):
    child = subprocess.run(
        [sys.executable, str(CHILD), str(table), str(ROWS // 4), str(MEMORY)],
        env={**os.environ, "PYTHONPATH": str(CHILD.parents[2])},
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
    )
    answer = json.loads(child.stdout)
    assert not answer["in_memory"]
    assert answer["wrong"] == 0
    # What a quarter of the file took was enough for the whole: the rows themselves are 80 MB.
    assert answer["grown"] < 40 << 20, answer
    orders, aside = np.load(table.with_suffix(".npy")), np.load(table.with_name("aside.npy"))
    assert answer["sizes"] == sorted({500, len(orders[0]) % 500} - {0})
    assert abs(len(aside) / ROWS - 0.2) < 0.01
    for order in orders:
        assert np.array_equal(np.sort(np.concatenate([order, aside])), np.arange(ROWS))
        # Neighbours come from anywhere in the buffer.
        buffer = MEMORY // 2 // (4 * COLUMNS + 8)
        assert np.mean(np.abs(np.diff(order)) < 10) < 0.01
        assert np.abs(np.diff(order)).mean() > buffer / 2
    assert (orders[0] == orders[1]).mean() < 0.01


@pytest.mark.parametrize("memory", [0, 800, 10_000, 1 << 20])
@pytest.mark.parametrize("length", [1, 7, 64])
def test_every_row_once_whatever_the_buffer(memory, length):
    number = np.arange(500)
    chunks = [Rows((number[i : i + length],), None) for i in range(0, 500, length)]
    chunks.insert(1, Rows((number[:0],), None))
    found = list(_mixed(iter(chunks), memory, 2, np.random.default_rng(0)))
    assert np.array_equal(np.sort(np.concatenate([part.inputs[0] for part in found])), number)
    assert max(map(len, found)) <= length
    again = list(_mixed(iter(chunks), memory, 2, np.random.default_rng(0)))
    assert all(np.array_equal(a.inputs[0], b.inputs[0]) for a, b in zip(found, again, strict=True))


def test_a_buffer_for_all_rows_is_a_fair_shuffle():
    number = np.arange(20)
    places = np.zeros((20, 20))
    rng = np.random.default_rng(1)
    for _ in range(4000):
        [found] = _mixed(iter([Rows((number,), None)]), 1 << 20, 2, rng)
        places[found.inputs[0], number] += 1
    assert abs(places / 4000 - 1 / 20).max() < 0.02
