"""Removed channels: the network computes what it would if nobody read them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from toys import MODELS, dense, toy_model

from modelcut.errors import RecipeError
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.model.edit import dependencies
from modelcut.model.measure import Meter
from modelcut.model.model import Source
from modelcut.model.rewrite import Rewrite
from modelcut.steps import effect, find
from modelcut.steps.base import NOT_FINITE, Context

Channels = find("prune", "channels")
SCRIPT = Path(__file__).with_name("channel_nets.py")
SUFFIX = {"keras": ".keras", "tf_keras": ".h5"}


def keras(*arguments):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def removed_of(model, result):
    """The dependencies of a model, and which of its channels another lacks, by its tensors."""
    found = dependencies(model)
    after = {tensor.name: tensor for tensor in result.tensors}
    names = {(lay.path, t.role): t.name for lay in model.layers for t in lay.tensors}
    gone = set()
    for slot in found.slots:
        tensor = after[names[slot.path, slot.role]]
        if not tensor.edits:
            continue
        takes = dict(tensor.edits[-1].edit(None, tensor.encoding).take)
        if slot.axis in takes:
            gone |= set(np.delete(slot.ids, takes[slot.axis]).tolist())
    return found, np.array(sorted(gone))


def masked(model, found, gone):
    """The model with nobody reading the channels, and other values in their own weights."""
    slots = {}
    for slot in found.slots:
        slots.setdefault((slot.path, slot.role), []).append(slot)

    def edited(own):
        def block(values, _):
            values = values.copy()
            for slot in sorted(own, key=lambda slot: slot.use == "reads"):
                index = [slice(None)] * values.ndim
                index[slot.axis] = np.isin(slot.ids, gone)
                if slot.use == "reads":
                    values[tuple(index)] = 0
                else:
                    values[tuple(index)] += 1
            return values

        return lambda values, encoding: Rewrite(encoding, block, whole=True)

    changed = {}
    for layer in model.layers:
        for tensor in layer.tensors:
            if (layer.path, tensor.role) in slots:
                own = slots[layer.path, tensor.role]
                changed[tensor.name] = tensor.then(0, edited(own), ("dense",))
    return model.with_tensors(changed)


def write(model, path):
    registry.for_output(path, model).write(model, path, WriteOptions())


def prune_all(engine, folder, **settings):
    """Prunes all files of a folder, and writes each beside its masked original."""
    outcomes = {}
    for path in sorted(folder.glob(f"*{SUFFIX[engine]}")):
        model = registry.open_model(path)
        outcomes[path.stem] = outcome = Channels(**settings).apply(model, Context())
        found, gone = removed_of(model, outcome.model)
        assert gone.size == outcome.facts["removed"] > 0
        write(outcome.model, folder / f"{path.stem}.pruned{path.suffix}")
        write(masked(model, found, gone), folder / f"{path.stem}.masked{path.suffix}")
        seen = {
            "/".join(place): np.flatnonzero(~np.isin(ids, gone)).tolist()
            for place, ids in found.mixed.items()
        }
        (folder / f"{path.stem}.mixed.json").write_text(json.dumps(seen))
    return outcomes


def check(found, outcomes):
    assert found.keys() == outcomes.keys()
    far = {name: result["far"] for name, result in found.items()}
    assert max(far.values()) < 1e-5, far
    for name, result in found.items():
        assert result["stale"] == [], name


@pytest.mark.parametrize("engine", ["keras", pytest.param("tf_keras", marks=pytest.mark.slow)])
def test_outputs_are_those_of_the_original_with_the_channels_unread(engine, tmp_path):
    keras("build", engine, tmp_path)
    outcomes = prune_all(engine, tmp_path, ratio=0.4, scope="layer", criterion="random")
    check(json.loads(keras("compare", engine, tmp_path)), outcomes)
    for name, outcome in outcomes.items():
        for layer, counts in outcome.facts["layers"].items():
            assert counts["removed"] == int(0.4 * counts["channels"] + 0.5), (name, layer)
        again = registry.open_model(tmp_path / f"{name}.pruned{SUFFIX[engine]}")
        shapes = [{t.name: t.shape for t in m.tensors} for m in (again, outcome.model)]
        assert shapes[0] == shapes[1]
    counts = {name: len(outcome.facts["layers"]) for name, outcome in outcomes.items()}
    assert counts == {
        "sequential": 3, "residual": 5, "unet": 3, "depthwise": 2, "squeeze": 4, "shared": 3,
        "nested": 5, "reshape": 2, "recurrent": 5, "volumes": 2, "barriers": 3, "wrapped": 7,
        "frames": 4, "attention": 8, "transformer": 4, "grouped": 4, "operations": 2,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["keras", "tf_keras"])
@pytest.mark.parametrize(
    "name",
    """ResNet50V2 MobileNetV2 DenseNet121 EfficientNetB0 MobileNetV3Small InceptionV3 Xception
    NASNetMobile ConvNeXtTiny""".split(),
)
def test_applications_lose_a_third_of_their_work(engine, name, tmp_path):
    keras("build", engine, tmp_path, name)
    outcome = prune_all(engine, tmp_path, macs=0.7, round_to=8)[name]
    macs = outcome.facts["macs"]
    assert 0.65 < macs["after"] / macs["before"] <= 0.7
    begun = time.process_time()
    with registry.open_model(tmp_path / f"{name}{SUFFIX[engine]}") as model:
        Channels(macs=0.7, round_to=8).apply(model, Context())
    assert time.process_time() - begun < 5
    check(json.loads(keras("compare", engine, tmp_path)), {name: outcome})


def golden(name):
    return registry.open_model(MODELS / name)


@pytest.mark.parametrize("name", ["sequential", "cnn", "branches", "nested", "text"])
def test_all_dialects_tell_the_same_groups(name):
    files = [
        f"{era}_{name}{suffix}" for era in ("keras3", "tf_keras") for suffix in (".h5", ".keras")
    ]
    told = []
    for file in files:
        found = dependencies(golden(file))
        told.append([(g.ids.size, len(found.made_by(g)), len(g.slots)) for g in found.groups])
    assert told[0]
    assert all(each == told[0] for each in told)


def applied(model, **settings):
    return Channels(**settings).apply(model, Context())


def values_of(outcome):
    return {tensor.name: tensor.pull()[0] for tensor in outcome.model.tensors}


def sized(arrays, config=None):
    """A toy model whose file says the shape of its input."""
    config = config or {
        "class_name": "Sequential",
        "config": [
            dense(name, kernel.shape[1], batch_input_shape=[None, kernel.shape[0]])
            for name, (kernel, _) in arrays.items()
        ],
    }
    return toy_model(arrays, config=config)


def three(**more):
    """Dense layers whose units' norms rise; the second one's inputs are all alike."""
    one = np.ones((3, 8), "float32") * np.arange(1, 9, dtype="float32")
    two = np.ones((8, 6), "float32") * np.arange(6, 0, -1, dtype="float32")
    three = np.ones((6, 2), "float32")
    return sized({"one": (one, None), "two": (two, None), "three": (three, None)}, **more)


def test_the_lowest_scores_of_each_group_are_removed_everywhere():
    outcome = applied(three(), ratio=0.5, scope="layer", criterion="l1")
    found = values_of(outcome)
    np.testing.assert_array_equal(found["one/kernel"][0], [5, 6, 7, 8])
    np.testing.assert_array_equal(found["two/kernel"], np.ones((4, 3)) * [6, 5, 4])
    assert found["three/kernel"].shape == (3, 2)
    config = [layer["config"] for layer in json.loads(outcome.model.architecture.text)["config"]]
    assert [layer["units"] for layer in config] == [4, 3, 2]
    assert [layer["batch_input_shape"][1] for layer in config] == [3, 4, 3]
    assert outcome.facts["layers"]["two"] == {"channels": 6, "removed": 3}
    assert outcome.facts["macs"] == {"before": 24 + 48 + 12, "after": 12 + 12 + 6}
    assert outcome.skipped == {}


def test_rounding_and_minimum():
    shapes = [a.shape for a in values_of(applied(three(), ratio=0.6, round_to=4)).values()]
    assert shapes == [(3, 4), (4, 4), (4, 2)]
    shapes = [a.shape for a in values_of(applied(three(), ratio=0.9, minimum=5)).values()]
    assert shapes == [(3, 5), (5, 5), (5, 2)]
    outcome = applied(three(), ratio=0.1, round_to=8)
    assert set(outcome.skipped) == {"one/kernel", "two/kernel", "three/kernel"}


def test_the_work_target_is_met_and_hardly_exceeded():
    rng = np.random.default_rng(0)
    sizes = [64, 256, 128, 64, 10]
    model = sized(
        {
            f"d{i}": (rng.normal(size=pair).astype("float32"), None)
            for i, pair in enumerate(pairwise(sizes))
        }
    )
    for target in (0.8, 0.5, 0.2):
        macs = applied(model, macs=target).facts["macs"]
        assert 0.97 * target < macs["after"] / macs["before"] <= target
    with pytest.raises(RecipeError, match=r"macs 0\.001 cannot be reached.* 0\.\d+"):
        applied(model, macs=0.001, minimum=20)


def test_criteria_against_their_formulas():
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(5, 7)).astype("float32")
    after = rng.normal(size=(7, 2)).astype("float32")
    model = toy_model({"one": (kernel, None), "two": (after, None)})

    def kept(criterion):
        shrunk = values_of(applied(model, ratio=0.43, criterion=criterion))["one/kernel"]
        return [int(np.flatnonzero((row == kernel.T).all(axis=1))[0]) for row in shrunk.T]

    def largest(scores):
        return sorted(np.argsort(-scores)[:4].tolist())

    for criterion, order in (("l1", 1), ("l2", 2)):
        own, read = (np.linalg.norm(a, order, axis=1) for a in (kernel.T, after))
        assert kept(criterion) == largest(own / own.mean() + read / read.mean())
    apart = np.linalg.norm(kernel.T[:, None] - kernel.T[None], axis=2).sum(axis=1)
    assert kept("fpgm") == largest(apart)
    assert kept("random") == kept("random")
    with pytest.raises(RecipeError, match="nothing"):
        effect.of_outcome(
            step := Channels(ratio=0.5, criterion="bn_scale", include=["one"]),
            model,
            step.apply(model, Context()),
            Context(),
        )


def test_the_scale_of_batch_normalization_scores():
    model = golden("keras3_cnn.keras")
    gamma = next(t for t in model.tensors if t.name.endswith("gamma"))
    told = np.array([0.5, -3, 0.1, 2], "float32")
    model = model.with_tensors({gamma.name: replace(gamma, source=Source(told.copy))})
    found = values_of(applied(model, ratio=0.5, criterion="bn_scale"))
    np.testing.assert_array_equal(found[gamma.name], [-3, 2])


def test_include_exclude_and_overrides():
    outcome = applied(three(), ratio=0.5, scope="layer", exclude=["two"])
    assert [a.shape for a in values_of(outcome).values()] == [(3, 4), (4, 6), (6, 2)]
    assert outcome.skipped == {"three/kernel": "its channels are the network's outputs"}
    outcome = applied(three(), ratio=0.5, scope="layer", include=["two"])
    assert [a.shape for a in values_of(outcome).values()] == [(3, 8), (8, 3), (3, 2)]
    outcome = applied(three(), macs=0.4, overrides={"one": {"ratio": 0.25}})
    assert outcome.facts["layers"]["one"] == {"channels": 8, "removed": 2}
    assert outcome.facts["macs"]["after"] <= 0.4 * outcome.facts["macs"]["before"]
    with pytest.raises(ValueError, match="'macs' cannot be set for one layer"):
        Channels(ratio=0.5, overrides={"one": {"macs": 0.1}})


@pytest.mark.parametrize("fields", [{}, {"ratio": 0.5, "macs": 0.5}])
def test_exactly_one_target(fields):
    with pytest.raises(ValueError, match="exactly one of ratio, macs"):
        Channels(**fields)


def test_values_that_are_not_finite_keep_a_group():
    model = three()
    values = np.full((3, 8), np.nan, "float32")
    tensor = next(iter(model.tensors))
    model = model.with_tensors({tensor.name: replace(tensor, source=Source(values.copy))})
    outcome = applied(model, ratio=0.5, scope="layer")
    assert outcome.facts["layers"]["one"]["removed"] == 0
    assert outcome.skipped["one/kernel"] == NOT_FINITE
    assert values_of(outcome)["two/kernel"].shape == (8, 3)


def test_a_class_that_nobody_knows_keeps_what_it_reads_and_makes():
    config = {
        "class_name": "Sequential",
        "config": [
            dense("one", 8), {"class_name": "Mine", "config": {"name": "mine"}},
            dense("two", 6), dense("three", 2),
        ],
    }  # fmt: skip
    model = three(config=config)
    outcome = applied(model, ratio=0.5, scope="layer")
    assert outcome.facts["removed"] == 3
    assert (
        "mine (Mine) is of a class whose channels are not followed"
        in (outcome.skipped["one/kernel"])
    )
    assert [a.shape for a in values_of(outcome).values()] == [(3, 8), (8, 3), (3, 2)]


def test_layers_shared_by_two_models_are_kept():
    config = json.loads(three().architecture.text)
    config["config"][0]["shared_object_id"] = 3
    outcome = applied(three(config=config), ratio=0.5, scope="layer")
    assert outcome.skipped["one/kernel"] == "it is shared with another part of the model"
    assert values_of(outcome)["two/kernel"].shape == (8, 3)


def test_layer_normalization_is_over_the_channels_that_are_left():
    rng = np.random.default_rng(0)
    arrays = {
        "one": (rng.normal(size=(3, 8)).astype("float32"), None),
        "two": (rng.normal(size=(8, 2)).astype("float32"), None),
    }
    config = {
        "class_name": "Sequential",
        "config": [
            {**dense("one", 8, batch_input_shape=[None, 3])},
            {"class_name": "LayerNormalization", "config": {"name": "norm", "axis": [1]}},
            dense("two", 2),
        ],
    }
    outcome = applied(toy_model(arrays, config=config), ratio=0.5)
    assert outcome.facts["removed"] == 4
    (warning,) = outcome.warnings
    assert "norm: normalizes over its channels" in warning


def test_encodings_survive():
    model = find("quantize", "linear")(bits=4, group=4).apply(three(), Context()).model
    model = find("prune", "magnitude")(sparsity=0.1).apply(model, Context(index=1)).model
    outcome = Channels(ratio=0.5, scope="layer").apply(model, Context(index=2))
    for tensor in outcome.model.tensors:
        meter = Meter()
        values, encoding = tensor.pull(meter)
        assert values.shape == tensor.shape
        assert encoding.kinds == tensor.kinds == ("sparse", "affine")
        np.testing.assert_array_equal(encoding.project(values), values)
        assert meter.after[-1][1].size == tensor.size
    error = meter.changes[-1][1].error
    assert 0 < error < 1


@pytest.mark.parametrize("suffix", [".h5", ".mcut"])
def test_the_written_file_is_verified_and_reported(suffix, tmp_path, modelcut):
    said = modelcut(
        "prune", MODELS / "tf_keras_branches.h5", "--method", "channels", "--ratio", "0.5",
        "-o", tmp_path / f"small{suffix}",
    )  # fmt: skip
    assert said.code == 0, said.err
    report = json.loads(modelcut("inspect", tmp_path / f"small{suffix}", "--json").out)
    tensors = {t["name"]: t["shape"] for layer in report["layers"] for t in layer["tensors"]}
    before = {t.name: list(t.shape) for t in golden("tf_keras_branches.h5").tensors}
    assert tensors.keys() == before.keys()
    assert tensors["wide/kernel"][1] < before["wide/kernel"][1]


def test_the_optimizer_state_no_longer_fits(tmp_path, modelcut):
    for name in ("keras3_cnn.keras", "tf_keras_cnn.keras", "tf_keras_cnn.h5"):
        said = modelcut(
            "prune", MODELS / name, "--method", "channels", "--ratio", "0.5", "--keep-optimizer",
            "-o", tmp_path / name,
        )  # fmt: skip
        assert said.code == 2, said.err
        assert "optimizer's state no longer fits" in said.err


def test_inspect_prints_the_groups_and_the_reasons(modelcut):
    said = modelcut("inspect", MODELS / "tf_keras_branches.h5", "--graph")
    assert "  5 channels of shared, back (6 tensors)" in said.out
    assert "one keeps its channels: its channels are the network's outputs" in said.out
    said = modelcut("inspect", MODELS / "keras3_cnn.weights.h5", "--graph")
    assert said.code == 2
    assert "no architecture" in said.err
