"""Layers taken out and replaced in real files, and the same outputs in the Keras of the file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("structural.py")


@pytest.fixture(scope="module", params=["keras", pytest.param("tf_keras", marks=pytest.mark.slow)])
def edited(request, tmp_path_factory):
    """What `structural.py` found of each network."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), request.param, str(tmp_path_factory.mktemp("nets"))],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_outputs_are_the_same(edited):
    apart = {name: found["apart"] for name, found in edited.items()}
    assert len(apart) >= 9
    assert max(apart.values()) < 2e-5, apart
    assert apart["plain"] == apart["graph"] == 0


def test_batch_normalizations_are_folded_into_the_layer_before_or_after(edited):
    sides = [fold["side"] for fold in edited["sequential"]["facts"]["layers"].values()]
    assert sides == ["after", *["before"] * 5, "after", "before", "after"]
    assert "BatchNormalization" not in edited["sequential"]["layers"]
    branches = edited["branches"]
    folds = list(branches["facts"]["layers"].values())
    assert [(fold["side"], len(fold["into"])) for fold in folds] == [
        ("before", 1), ("before", 1), ("after", 2),
    ]  # fmt: skip
    assert branches["layers"].count("BatchNormalization") == 3
    reasons = {why for name, why in branches["skipped"].items() if name.endswith("gamma")}
    words = ("used elsewhere too", "pads with zeros", "name is that of an output")
    for word in words:
        assert [why for why in reasons if word in why], word


def test_identities_are_taken_out(edited):
    assert edited["plain"]["layers"] == ["Conv2D", "Flatten", "Dense", "Activation"]
    assert len(edited["plain"]["facts"]["removed"]) == 9
    graph = edited["graph"]
    assert "Dropout" not in graph["layers"]
    (kept,) = [name for name, why in graph["skipped"].items() if "output" in why]
    assert kept.startswith("activation")


def test_low_ranks_are_found_and_lose_nothing(edited):
    ranks = {
        name.partition(".")[2]: {
            layer: fact["rank"] for layer, fact in f["facts"]["layers"].items()
        }
        for name, f in edited.items()
        if name.startswith("low.")
    }
    assert ranks == {
        "svd": {"low_4": 4, "low_1": 1},
        "channel": {"low_2": 2, "low_3": 3},
        "spatial": {"low_2": 6, "low_3": 6},
        "tucker2": {"low_2": [2, 2], "low_3": [3, 3]},
        "cp": {"low_2": 2, "low_3": 3},
    }
