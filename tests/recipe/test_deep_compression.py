"""`recipes/deep-compression.yaml` from end to end: a network and sounds that no one here made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from materials import models
from sounds import rows

RECIPE = Path(__file__).parents[2] / "recipes" / "deep-compression.yaml"


@pytest.mark.slow
def test_speech_is_told_from_music_in_an_eleventh_of_the_bytes(tmp_path, modelcut):
    (network,) = models("inaSpeechSegmenter==0.6.8")
    out = tmp_path / "small.mcut"
    options = ("--test", rows(), "--coder", "huffman", "--quiet")
    said = modelcut("run", network, "--recipe", RECIPE, "-o", out, *options)
    assert said.code == 0, said.err
    report = json.loads((tmp_path / "small.report.json").read_text())
    before, after = (report["evaluation"][when]["metrics"] for when in ("before", "after"))
    assert before["accuracy"] > 0.98
    for name in ("accuracy", "recall_macro", "f1_macro"):
        assert after[name] > before[name] - 0.01, name
    assert report["output"]["bytes"] < network.stat().st_size / 11
    kernels = [
        tensor
        for layer in report["layers"]
        for tensor in layer["tensors"]
        if tensor["name"].endswith("kernel")
    ]
    assert len(kernels) == 9
    for tensor in kernels:
        assert re.fullmatch(r"sparse, 1[456] centroids", tensor["encoding"]), tensor
        titles = [change["title"] for change in tensor["changes"]]
        assert titles == ["prune: magnitude", "quantize: cluster"]
        assert tensor["coder"] == "huffman"

    # The file itself, without the recipe, and back as the owner's own format.
    said = modelcut("eval", out, "--test", rows(), "--json")
    found = json.loads(said.out)["evaluation"]["after"]["metrics"]
    assert found["accuracy"] == after["accuracy"]
    back = tmp_path / "back.hdf5"
    assert modelcut("unpack", out, "-o", back).code == 0
    assert modelcut("eval", back, "--test", rows(), "--against", network, "--limit", 500).code == 0
