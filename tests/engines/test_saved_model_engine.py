"""SavedModels in TensorFlow itself: golden ones, and what modelcut makes of them."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from materials import models
from toys import SAVED_MODELS, contents, saved_model

from modelcut import engines, steps
from modelcut.errors import UsageError
from modelcut.formats import registry
from modelcut.formats.saved_model import fingerprint
from modelcut.job import pipeline
from modelcut.job.request import Job
from modelcut.recipe.recipe import Recipe

KINDS = ["keras3", "tf_keras", "module", "v1"]
PRUNE = {"sparsity": 0.5}


def recorded(kind):
    found = np.load(SAVED_MODELS / f"{kind}.npz")
    parts = {"input": {}, "output": {}}
    for name in found.files:
        what, _, key = name.partition("_")
        parts[what][key] = found[name]
    return parts["input"], parts["output"]


def opened(path, signature=None):
    return engines.open_network(path, "saved_model", suffix="", signature=signature)


def made(path, out, *done, **more):
    pipeline.run(Job(path, Recipe(done), out, report=False, **more))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_the_writer(kind, tmp_path):
    path = saved_model(kind, tmp_path)
    prune = steps.find("prune", "magnitude")
    same = made(path, tmp_path / "same", prune(threshold=0.0))
    inputs, outputs = recorded(kind)
    for folder in (path, same):
        network = opened(folder)
        found = network.predict(inputs)
        assert [spec.name for spec in network.outputs] == sorted(outputs)
        assert network.outputs[0].activation == "softmax"
        for spec, values in zip(network.outputs, found, strict=True):
            np.testing.assert_allclose(values, outputs[spec.name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_both_loaders_of_tensorflow_give_the_pruned_network(kind, tmp_path, caplog):
    """The object loader, and that of sessions (TensorFlow Serving's), which restores by keys."""
    import tensorflow as tf

    path = saved_model(kind, tmp_path)
    out = made(path, tmp_path / "out", steps.find("prune", "magnitude")(**PRUNE))
    inputs, before = recorded(kind)
    with caplog.at_level(logging.INFO):
        network = opened(out)
        found = network.predict(inputs)
    assert "ingerprint" not in caplog.text or kind == "v1"
    assert max(np.abs(found[0] - value).max() for value in before.values()) > 1e-4
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(out))
        signature = loaded.signature_def["serving_default"]
        feed = {signature.inputs[name].name: value for name, value in inputs.items()}
        names = sorted(signature.outputs)
        values = session.run([signature.outputs[name].name for name in names], feed)
    np.testing.assert_allclose(values[0], found[0], rtol=1e-5, atol=1e-6)
    stored = tf.train.load_checkpoint(str(out / "variables" / "variables"))
    for tensor in registry.open_model(out).tensors:
        np.testing.assert_array_equal(stored.get_tensor(tensor.key), tensor.pull()[0])


def test_signatures_are_chosen_by_name(tmp_path):
    path = saved_model("module", tmp_path)
    network = opened(path, "embed")
    assert [spec.name for spec in network.inputs] == ["point"]
    with pytest.raises(UsageError, match=r"it has: .*embed"):
        opened(path, "embeds")
    only = opened(path, "serving_default:score")
    assert [spec.name for spec in only.outputs] == ["score"]
    with pytest.raises(UsageError, match=r"no output 'point'.*it has: score"):
        opened(path, "serving_default:point")
    with pytest.raises(UsageError, match="not a SavedModel"):
        engines.open_network(path / "saved_model.pb", "keras2", signature="embed")


def test_words_and_whole_numbers_come_from_the_csv(tmp_path, modelcut):
    path = saved_model("module", tmp_path)
    rows = ["word,counts_0,counts_1,counts_2,counts_3,counts_4,label"]
    rows += [f"{word},{i % 3},1,0,2,{i % 2},{i % 3}" for i in range(4) for word in ("red", "blue")]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    said = modelcut("eval", path, "--test", tmp_path / "rows.csv")
    assert said.code == 0, said
    assert "accuracy" in said.out
    said = modelcut("eval", path, "--test", tmp_path / "rows.csv", "--signature", "nope")
    assert said.code == 2
    assert "no signature 'nope'" in said.err


def test_keras_2_runs_what_became_h5(tmp_path):
    path = saved_model("tf_keras", tmp_path)
    out = made(path, tmp_path / "out.h5", steps.find("prune", "magnitude")(threshold=0.0))
    network = engines.open_network(out, "keras2")
    inputs, outputs = recorded("tf_keras")
    given = dict(zip([spec.name for spec in network.inputs], inputs.values(), strict=True))
    for one, two in zip(network.predict(given), outputs.values(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_other_layers_are_another_graph(name, tmp_path):
    """Keras makes the graph anew: it predicts as the `.h5` of the same recipe."""
    path, svd = saved_model("tf_keras", tmp_path), steps.find("factorize", "svd")(rank=1)
    found = []
    for out in (made(path, tmp_path / "out.h5", svd), made(path, tmp_path / name, svd)):
        model = registry.open_model(out)
        assert any(tensor.name.endswith("hidden_factor/kernel") for tensor in model.tensors)
        with registry.plain_file(registry.open_model(out)) as (file, suffix):
            network = engines.open_network(file, model.origin.dialect, suffix=suffix)
        inputs = recorded("tf_keras")[0].values()
        given = dict(zip([spec.name for spec in network.inputs], inputs, strict=True))
        found.append(network.predict(given))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_the_hash_is_tensorflows():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    for length in [*range(140), 1000, 4096, 4097]:
        data = rng.bytes(length)
        expected = int.from_bytes(tf.fingerprint([data]).numpy().tobytes(), "little")
        assert fingerprint.hash64(data) == expected


CODE = ["import os\nprint(os.getcwd())", "int main(void) { return 0; }", "SELECT a FROM b;"]
PUBLISHED = {
    # TensorFlow 2.4, Keras 2, three outputs, an optimizer's state.
    "basic-pitch==0.4.0": (None, lambda shape: np.random.default_rng(0).normal(size=(2, *shape))),
    # An Estimator of TensorFlow 1's kind: words in, embeddings, summaries, words among the outputs.
    "guesslang==2.2.1": ("predict", lambda shape: np.array(CODE, object)),
}


def ran(path, signature, rows):
    network = opened(path, signature)
    spec = network.inputs[0]
    given = rows(spec.shape)
    kind = object if spec.dtype == "string" else spec.dtype
    found = network.predict({spec.name: given.astype(kind)})
    return dict(zip([output.name for output in network.outputs], found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("spec", PUBLISHED)
def test_a_published_model(spec, tmp_path):
    path = models(spec)[0].parent
    prune, linear = steps.find("prune", "magnitude"), steps.find("quantize", "linear")
    before = ran(path, *PUBLISHED[spec])
    same = ran(made(path, tmp_path / "same", prune(threshold=0.0)), *PUBLISHED[spec])
    for name, values in before.items():
        np.testing.assert_array_equal(same[name], values)
    small = made(path, tmp_path / "small", prune(sparsity=0.2), linear(bits=8))
    after = ran(small, *PUBLISHED[spec])
    moved = {name: np.abs(after[name] - values).mean() for name, values in before.items()}
    measured = ["probabilities"] if spec.startswith("guesslang") else list(moved)
    assert all(0 < moved[name] < 0.1 for name in measured)
    data = "variables/variables.data-00000-of-00001"
    if "basic-pitch" in spec:  # its optimizer's state goes
        assert (small / data).stat().st_size < 0.7 * (path / data).stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("spec", PUBLISHED)
def test_a_published_model_packed_and_back(spec, tmp_path):
    """Pruned, shared, packed and unpacked: what comes back computes what went in."""
    path = models(spec)[0].parent
    done = steps.find("prune", "magnitude")(sparsity=0.2), steps.find("quantize", "cluster")()
    for out in ("shared", "s.mcut", "s.tar.gz", "s.zip"):
        made(path, tmp_path / out, *done)
    made(path, tmp_path / "o.mcut")
    for name in ("s", "o"):
        made(tmp_path / f"{name}.mcut", tmp_path / f"{name}-back", lossless=True)
    made(tmp_path / "s.zip", tmp_path / "zip-back", lossless=True)
    assert contents(tmp_path / "s-back") == contents(tmp_path / "shared")
    original, back, shared, zipped = (
        ran(folder, *PUBLISHED[spec])
        for folder in (path, *(tmp_path / name for name in ("o-back", "s-back", "zip-back")))
    )
    for name, values in original.items():
        np.testing.assert_array_equal(back[name], values)
        np.testing.assert_array_equal(zipped[name], shared[name])
    measured = ["probabilities"] if spec.startswith("guesslang") else list(original)
    for name in measured:
        assert 0 < np.abs(shared[name] - original[name]).mean() < 0.1
    size = (tmp_path / "s.mcut").stat().st_size
    if spec.startswith("basic-pitch"):
        assert size < (path / "saved_model.pb").stat().st_size / 8
    else:  # embeddings for the most part, which steps leave alone unless they are named
        assert size < sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 1.25


@pytest.mark.slow
def test_words_of_a_published_model_come_from_a_csv(tmp_path, modelcut):
    path = models("guesslang==2.2.1")[0].parent
    rows = tmp_path / "rows.csv"
    quoted = [code.replace('"', "'") for code in CODE]
    labels = [39, 4, 45]
    rows.write_text(
        "\n".join(["content,label", *(f'"{c}",{n}' for c, n in zip(quoted, labels, strict=True))])
    )
    call = ("eval", path, "--test", rows, "--json")
    said = modelcut(*call, "--signature", "predict:probabilities")
    assert said.code == 0, said
    metrics = json.loads(said.out)["evaluation"]["after"]["metrics"]
    assert "log_loss" in metrics
    said = modelcut(*call)  # serving_default: the words are left out, the scores are measured
    assert json.loads(said.out)["evaluation"]["after"]["metrics"] == metrics
    said = modelcut(*call, "--signature", "predict:classes")
    assert said.code == 2
    assert "no output 'classes' of numbers" in said.err


@pytest.mark.parametrize("packed", [False, True])
def test_what_trains_or_tries_weights_is_refused_before_any_work(packed, tmp_path, modelcut):
    path = saved_model("tf_keras", tmp_path)
    if packed:
        assert modelcut("pack", path, "-o", tmp_path / "p.mcut", "-q").code == 0
        path = tmp_path / "p.mcut"
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b,c,d,e,f,label\n" + "1,2,3,4,5,6,0\n" * 20)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "version: 1\nsteps:\n  - prune: magnitude\n    budget: {max_accuracy_drop: 0.1}\n"
    )
    out = tmp_path / "out.h5"
    for call in (
        ("run", path, "--recipe", recipe, "--train", rows, "-o", out),
        ("finetune", path, "--train", rows, "--epochs", "1", "-o", out),
        ("sensitivity", path, "--validate", rows),
    ):
        said = modelcut(*call)
        assert said.code == 2, said
        assert "finished graph" in said.err
        assert ".keras that it was made from" in said.err
        assert said.err.count("\n") == 1
    assert not out.exists()


def test_python_loads_packed_ones(tmp_path):
    import modelcut as package

    path = saved_model("module", tmp_path)
    made(path, tmp_path / "p.mcut")
    made(path, tmp_path / "p.tar.gz")
    inputs, outputs = recorded("module")
    for name in ("p.mcut", "p.tar.gz"):
        loaded = package.load(tmp_path / name)
        found = loaded.signatures["serving_default"](**{k: _tensor(v) for k, v in inputs.items()})
        np.testing.assert_allclose(found["score"].numpy(), outputs["score"], rtol=1e-5, atol=1e-6)


def _tensor(values):
    import tensorflow as tf

    return tf.constant(values)
