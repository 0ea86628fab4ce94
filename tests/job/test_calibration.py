"""Calibration data: asked for where a step looks at outputs, and refused where nothing does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from toys import MODELS

MODEL = MODELS / "keras3_sequential.h5"


@pytest.fixture
def samples(tmp_path):
    """Inputs of the model, without labels."""
    path = tmp_path / "samples.csv"
    rows = np.random.default_rng(0).normal(size=(50, 8))
    np.savetxt(path, rows, "%.4f", ",", header="a,b,c,d,e,f,g,h", comments="")
    return path


@pytest.mark.parametrize(
    "flags",
    [
        ("quantize", "--rounding", "gptq"),
        ("quantize", "--range", "output"),
        ("quantize", "--bits", "auto"),
        ("prune", "--sparsity", "0.5", "--correct", "both"),
        ("correct",),
        ("equalize", "--by", "outputs"),
    ],
)
def test_a_step_that_looks_at_outputs_asks_for_samples(flags, tmp_path, modelcut):
    command, *more = flags
    said = modelcut(command, MODEL, *more, "-o", tmp_path / "o.h5")
    assert said.code == 2
    assert "needs calibration data" in said.err
    assert "add --calibrate FILE.csv, or --train FILE.csv" in said.err


def test_samples_that_nothing_looks_at_are_refused(samples, tmp_path, modelcut):
    said = modelcut("quantize", MODEL, "--calibrate", samples, "-o", tmp_path / "o.h5")
    assert said.code == 2
    assert "--calibrate is for steps that look at outputs" in said.err


@pytest.mark.slow
def test_samples_without_labels_are_enough(samples, tmp_path, modelcut):
    found = []
    for name in ("a.h5", "b.h5"):
        flags = ("--bits", "3", "--rounding", "gptq", "--correct", "both", "--calibrate", samples)
        said = modelcut("quantize", MODEL, *flags, "-o", tmp_path / name, "--json")
        assert said.code == 0, said
        found.append((tmp_path / name).read_bytes())
    assert found[0] == found[1]
    facts = json.loads(said.out)["steps"][0]["facts"]
    assert facts["samples"] == 50
    for name, error in facts["output_error"].items():
        assert error <= facts["output_error_nearest"][name]
