"""Models that no one here made, through every step, back into the Keras that loaded them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from materials import MODELS, models

from modelcut import steps
from modelcut.errors import RecipeError
from modelcut.formats import registry
from modelcut.formats.base import WriteOptions
from modelcut.job import pipeline
from modelcut.job.request import Job
from modelcut.recipe.recipe import Recipe

pytestmark = pytest.mark.slow

RECIPES = {
    "nothing": lambda: (steps.find("prune", "magnitude")(threshold=0),),
    "prune and quantize": lambda: (
        steps.find("prune", "magnitude")(sparsity=0.5),
        steps.find("quantize", "linear")(bits=8),
    ),
    "prune and share": lambda: (
        steps.find("prune", "magnitude")(sparsity=0.5),
        steps.find("quantize", "cluster")(entropy_weight=0.01),
    ),
    "binary": lambda: (steps.find("quantize", "binary")(bases=2),),
    "ternary": lambda: (steps.find("quantize", "ternary")(),),
    "float16": lambda: (steps.find("quantize", "float16")(),),
    "factorize": lambda: (steps.find("factorize", "svd")(ratio=0.6),),
}


def load(path):
    """Plain Keras 3 and tf_keras; None where it refuses."""
    import keras
    import tf_keras

    found = {}
    for name, library in (("keras", keras), ("tf_keras", tf_keras)):
        try:
            found[name] = library.models.load_model(path, compile=False)
        except Exception:
            found[name] = None
    return found


def predict(model):
    rng = np.random.default_rng(0)
    inputs = []
    for tensor in model.inputs:
        free = 10_100 if len(tensor.shape) == 3 else 32
        shape = [n or (2 if axis == 0 else free) for axis, n in enumerate(tensor.shape)]
        inputs.append(rng.normal(size=shape).astype("float32"))
    found = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [np.asarray(one) for one in (found if isinstance(found, (list, tuple)) else [found])]


def check_weights(job, name):
    """Bare weights keep every name, shape and attribute; to split a layer takes the whole model."""
    if name == "factorize":
        with pytest.raises(RecipeError, match="weights only"):
            pipeline.run(job)
        return
    pipeline.run(job)
    with h5py.File(job.model) as before, h5py.File(job.output) as after:
        assert contents(after, values=False) == contents(before, values=False)
        if name == "nothing":
            assert contents(after) == contents(before)


def contents(file, values=True):
    found = {}

    def visit(key, item):
        if not key.startswith("modelcut"):
            plain = isinstance(item, h5py.Group)
            found[key] = None if plain else (item.shape, item[()].tobytes() if values else b"")
            found[key, "attributes"] = {k: str(v) for k, v in item.attrs.items()}

    file.visititems(visit)
    return found


@pytest.mark.parametrize("spec", MODELS)
def test_it_loads_wherever_it_loaded_before(spec, tmp_path):
    for path in models(spec):
        before = load(path)
        for name, make in RECIPES.items():
            out = tmp_path / f"{path.stem}{path.suffix}"
            out.unlink(missing_ok=True)
            job = Job(path, Recipe(make()), out, force=True, report=False)
            if registry.open_model(path).architecture is None:
                check_weights(job, name)
                continue
            pipeline.run(job)
            after = load(out)
            for library, model in before.items():
                assert (model is None) == (after[library] is None), (path.name, name, library)
                if model is not None and name == "nothing":
                    try:
                        expected = predict(model)
                    except Exception:
                        continue  # this Keras loads it and cannot run it
                    for one, two in zip(expected, predict(after[library]), strict=True):
                        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("spec", MODELS)
def test_it_unpacks_to_what_a_plain_write_gives(spec, tmp_path):
    """Pruned, shared and packed: bit for bit."""
    for path in models(spec):
        recipe = Recipe(
            (
                steps.find("prune", "magnitude")(sparsity=0.9, scope="layer"),
                steps.find("quantize", "cluster")(bits=4),
            )
        )
        direct, back = (tmp_path / f"{name}{path.suffix}" for name in ("direct", "back"))
        packed = tmp_path / "packed.mcut"
        for out in (direct, packed):
            pipeline.run(Job(path, recipe, out, force=True, report=False))
        model = registry.open_model(packed)
        options = WriteOptions(provenance=lambda model=model: model.origin.provenance)
        back.unlink(missing_ok=True)
        registry.for_output(back, model).write(model, back, options)
        assert back.read_bytes() == direct.read_bytes(), path.name
        assert packed.stat().st_size < 0.7 * direct.stat().st_size, path.name


@pytest.mark.parametrize("spec", [spec for spec in MODELS if spec != "deeplc==3.0.8"])
def test_keras_2_gets_its_own_keras_file(spec, tmp_path):
    for path in models(spec):
        model, out = registry.open_model(path), tmp_path / f"{path.stem}.keras"
        if reason := registry.by_name("keras_zip").refusal(model):
            known = model.origin.weights_only or model.origin.dialect == "keras1"
            assert known or "CuDNN" in reason, (path, reason)
            continue
        pipeline.run(Job(path, Recipe(()), out, report=False))
        before, after = load(path)["tf_keras"], load(out)["tf_keras"]
        assert (before is None) == (after is None), path
        if before is not None:
            try:
                expected = predict(before)
            except Exception:
                continue  # it loads and does not run: channels first, words by number
            for one, two in zip(expected, predict(after), strict=True):
                np.testing.assert_array_equal(one, two)
