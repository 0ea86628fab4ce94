"""A CSV, and what every refusal must look like."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rows(tmp_path):
    """Thirty rows for the 4-8-3 classifiers."""
    rng = np.random.default_rng(0)
    lines = ["a,b,c,d,label"] + [
        ",".join(f"{value:.3f}" for value in rng.normal(size=4)) + f",{i % 3}" for i in range(30)
    ]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def in_one_line(tmp_path):
    """Checks that a command was refused in one line, and nothing was run or left behind."""
    before = {path.name for path in tmp_path.iterdir()}

    def check(said, *codes, words=""):
        assert said.code in (codes or (2, 3)), said
        assert said.err.startswith("modelcut: "), said
        assert said.err.count("\n") == 1, said.err
        assert len(said.err) < 2100
        assert words in said.err
        left = {path.name for path in tmp_path.iterdir()} - before
        assert not [name for name in left if name.endswith((".marker", ".part"))]

    return check


@pytest.fixture
def refused(rows, modelcut, in_one_line):
    """Evaluates a file, which must be refused."""

    def check(path, *codes, words=""):
        in_one_line(modelcut("eval", path, "--test", rows), *codes, words=words)

    return check
