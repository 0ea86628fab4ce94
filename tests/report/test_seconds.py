"""Where the time went, and which numbers are estimates."""

import json

import h5py
import numpy as np
import pytest
from toys import MODELS

import modelcut as package
from modelcut.report import render

PHASES = {"open", "survey", "write", "verify", "hash", "publish", "total"}


def test_a_job_tells_where_its_time_went(modelcut, tmp_path):
    out = tmp_path / "o.h5"
    command = ("prune", MODELS / "keras3_cnn.h5", "--sparsity", "0.5", "-o", out, "--profile")
    done = modelcut(*command, "--json")
    assert done.code == 0, done
    report = json.loads(done.out)
    assert set(report["seconds"]) == PHASES
    parts = sum(took for name, took in report["seconds"].items() if name != "total")
    assert parts == pytest.approx(report["seconds"]["total"], rel=1e-3)
    assert {"edit", "hash", "read", "total"} <= set(report["cpu_seconds"])
    for name in (*PHASES, "edit"):
        assert f"\n  {name} " in done.err
    assert json.loads((tmp_path / "o.report.json").read_text())["seconds"].keys() == PHASES - {
        "publish"
    }


def test_nothing_is_told_of_a_file_that_is_only_looked_at():
    report = package.inspect(MODELS / "keras3_cnn.h5")
    assert report.seconds is None
    assert "seconds" not in report.to_dict()


@pytest.fixture
def large(tmp_path):
    """Keras 2's file of one layer of 9 MB: beyond what is coded to tell its size."""
    path = tmp_path / "large.h5"
    layer = {"class_name": "Dense", "config": {"name": "d", "units": 1024}}
    start = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 2200], "name": "i"}}
    with h5py.File(path, "w") as file:
        config = {"name": "s", "layers": [start, layer]}
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config})
        file.attrs["keras_version"] = "2.4.0"
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"d"]
        group.create_group("d").attrs["weight_names"] = [b"d/kernel:0", b"d/bias:0"]
        # Only the first half is noise, so that pieces tell less than all.
        values = np.random.default_rng(0).standard_normal((2200, 1024)).astype("float32")
        values[1100:] = 0
        group["d/d/kernel:0"] = values
        group["d/d/bias:0"] = np.zeros(1024, "float32")
    return path


@pytest.mark.parametrize("compression", ["none", "fast"])
def test_an_estimate_says_that_it_is_one(compression, large, tmp_path):
    found = [
        package.quantize(large, tmp_path / f"{full}.h5", compression=compression, full_report=full)
        for full in (False, True)
    ]
    guessed, full = ([size.totals for size in (r.sizes.before, r.sizes.after)] for r in found)
    assert [totals.deflated_estimated for totals in guessed] == [True, compression == "none"]
    assert [totals.deflated_estimated for totals in full] == [False, False]
    for guess, known in zip(guessed, full, strict=True):
        assert guess.deflated_bytes == pytest.approx(known.deflated_bytes, rel=0.05)
    assert full[0].deflated_bytes != guessed[0].deflated_bytes
    assert (tmp_path / "False.h5").read_bytes() == (tmp_path / "True.h5").read_bytes()
    texts = [render(report, "md") for report in found]
    assert "≈ " in texts[0]
    assert "--full-report" in texts[0]
    assert "≈" not in texts[1]
