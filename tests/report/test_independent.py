"""Every figure of the report once more, by scikit-learn, NumPy and plain Keras.

One network of each task is pruned and quantized on the command line; then the original and the
written file are loaded by Keras itself, run over the same table, and all that the report says of
them is computed again by others.
"""

from __future__ import annotations

import csv
import json
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from blake3 import blake3
from sklearn import metrics as oracle

pytestmark = pytest.mark.slow

ROWS = 257


class Case(NamedTuple):
    """A network, its table, and how modelcut is told of them."""

    model: Any
    inputs: np.ndarray
    columns: dict[str, list]  # label columns as they stand in the table
    flags: list[str]
    truth: dict[str, tuple[str, np.ndarray, bool]]  # output -> (task, labels, logits)
    names: dict[str, list[str]]  # output -> its classes as the report names them


def _rows(width=6, seed=0):
    return np.random.default_rng(seed).normal(size=(ROWS, width)).astype("float32")


def _network(keras, heads, loss, width=6):
    """Dense layers; heads: name -> (units, activation)."""
    layers = keras.layers
    keras.utils.set_random_seed(7)
    inputs = layers.Input((width,), name="in")
    x = layers.Dense(16, activation="relu", name="body")(inputs)
    outputs = {
        name: layers.Dense(units, activation=activation, name=f"{name}_layer")(x)
        for name, (units, activation) in heads.items()
    }
    alone = next(iter(outputs.values()))
    model = keras.Model(inputs, alone if len(outputs) == 1 else outputs)
    for weight in model.weights:  # far from even, so that classes, labels and numbers differ
        weight.assign(weight * 2.5)
    if loss is not None:
        model.compile("sgd", loss)
    return model


def _noisy(values, seed):
    return (
        np.random.default_rng(seed).permutation(values[: ROWS // 4]).tolist()
        + values[ROWS // 4 :].tolist()
    )


def multiclass(keras, logits=False):
    activation = None if logits else "softmax"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model = _network(keras, {"y": (6, activation)}, loss)
    x = _rows()
    labels = np.array(_noisy(model.predict(x, verbose=0).argmax(1), 1))
    folders = ["0", "1", "10", "11", "2", "3"]  # the order in which a folder lists them
    flags = ["--label", "kind", "--classes", "[0, 1, 10, 11, 2, 3]"]
    column = [folders[label] for label in labels]
    return Case(
        model, x, {"kind": column}, flags, {"": ("multiclass", labels, logits)}, {"": folders}
    )


def multiclass_logits(keras):
    return multiclass(keras, logits=True)


def binary(keras, logits=False):
    loss = keras.losses.BinaryCrossentropy(from_logits=logits)
    model = _network(keras, {"y": (1, None if logits else "sigmoid")}, loss)
    x = _rows(seed=2)
    scores = model.predict(x, verbose=0)[:, 0]
    labels = np.array(_noisy((scores > (0 if logits else 0.5)).astype(int), 3))
    words = [["no", "yes"][label] for label in labels]
    flags = ["--label", "answer", "--classes", "['no', 'yes']"]
    truth = {"": ("binary", labels, logits)}
    return Case(model, x, {"answer": words}, flags, truth, {"": ["no", "yes"]})


def binary_logits(keras):
    return binary(keras, logits=True)


def multilabel(keras):
    model = _network(keras, {"y": (3, "sigmoid")}, "binary_crossentropy")
    x = _rows(seed=4)
    said = model.predict(x, verbose=0) > 0.5
    labels = (said ^ (np.random.default_rng(3).random(said.shape) < 0.2)).astype(int)
    columns = {name: labels[:, i].tolist() for i, name in enumerate("abc")}
    # Dealt in another order than the outputs: the names say which is whose.
    flags = ["--label", "[c, a, b]", "--classes", "[a, b, c]"]
    return Case(model, x, columns, flags, {"": ("multilabel", labels, False)}, {"": list("abc")})


def regression(keras):
    model = _network(keras, {"y": (1, None)}, "mse")
    x = _rows(seed=5)
    values = model.predict(x, verbose=0)[:, 0].astype(float)
    labels = np.round(values + np.random.default_rng(6).normal(size=ROWS), 4)
    truth = {"": ("regression", labels[:, None], False)}
    return Case(model, x, {"price": labels.tolist()}, ["--label", "price"], truth, {"": []})


def several(keras):
    heads = {"width": (1, None), "kind": (4, None), "side": (1, "sigmoid")}
    losses = {
        "width": "mae",
        "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "side": "binary_crossentropy",
    }
    model = _network(keras, heads, losses)
    x = _rows(seed=8)
    given = model.predict(x, verbose=0)
    width = np.round(given["width"][:, 0] + np.random.default_rng(9).normal(size=ROWS), 4)
    kind = np.array(_noisy(given["kind"].argmax(1), 10))
    side = np.array(_noisy((given["side"][:, 0] > 0.5).astype(int), 11))
    kinds, sides = ["cat", "cow", "dog", "emu"], ["left", "right"]
    columns = {
        "wide": width.tolist(),
        "animal": [kinds[i] for i in kind],
        "hand": [sides[i] for i in side],
    }
    flags = ["--label", "{side: hand, width: wide, kind: animal}"]
    flags += ["--classes", "{kind: [cat, cow, dog, emu], side: [left, right]}"]
    truth = {
        "kind": ("multiclass", kind, True),
        "side": ("binary", side, False),
        "width": ("regression", width[:, None], False),
    }
    return Case(model, x, columns, flags, truth, {"kind": kinds, "side": sides, "width": []})


CASES = [multiclass, multiclass_logits, binary, binary_logits, multilabel, regression, several]


@pytest.fixture(scope="module")
def keras():
    module = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    return module


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".tflite"])
@pytest.mark.parametrize("made", CASES, ids=lambda made: made.__name__)
def test_the_report_says_what_others_find(made, suffix, keras, tmp_path, modelcut):
    case = made(keras)
    source, out, table = tmp_path / "m.keras", tmp_path / f"o{suffix}", tmp_path / "t.csv"
    case.model.save(source)
    _write(table, case)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "steps:\n- prune: magnitude\n  sparsity: 0.3\n  scope: layer\n- quantize: linear\n"
        "  bits: 4\n"
    )
    call = ["run", source, "--recipe", recipe, "--test", table, *case.flags, "-o", out]
    said = modelcut(*call, "--json", "--inputs", "{in: x*}")
    assert said.code == 0, said
    report = json.loads(said.out)
    before = _predicted(keras, source, case)
    after = _interpreted(out, case) if suffix == ".tflite" else _predicted(keras, out, case)
    evaluation = report["evaluation"]
    for side, answers in (("before", before), ("after", after)):
        assert evaluation[side]["rows"] == ROWS
        _check_metrics(evaluation[side], answers, case)
    _check_agreement(evaluation["agreement"], before, after, case)
    _check_change(evaluation)
    _check_sizes(report, source, out, case)
    if suffix == ".h5":
        _check_tensors(report, case.model, out)


def _write(path, case):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{i}" for i in range(case.inputs.shape[1])), *case.columns])
        for row, labels in zip(case.inputs, zip(*case.columns.values(), strict=True), strict=True):
            writer.writerow([*(repr(float(value)) for value in row), *labels])


def _predicted(keras, path, case):
    found = keras.models.load_model(path, compile=False).predict(case.inputs, verbose=0)
    return found if isinstance(found, dict) else {"": found}


def _interpreted(path, case):
    """LiteRT's own interpreter, its signature's names."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(path))
    runner = interpreter.get_signature_runner()
    rows = [runner(**{"in": row[None]}) for row in case.inputs]
    found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return found if len(found) > 1 else {"": next(iter(found.values()))}


def _chance(task, values, logits):
    """Probabilities of the classes, (rows, classes), or of the labels."""
    values = values.astype(np.float64)
    if task == "multiclass":
        if not logits:
            return values / values.sum(axis=1, keepdims=True)
        raised = np.exp(values - values.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)
    chance = 1 / (1 + np.exp(-values)) if logits else values
    return np.concatenate([1 - chance, chance], axis=1) if task == "binary" else chance


def _said(task, values, logits):
    if task == "multiclass":
        return values.argmax(axis=1)
    said = (values > (0 if logits else 0.5)).astype(int)
    return said[:, 0] if task == "binary" else said


def _check_metrics(evaluation, answers, case):
    several = len(case.truth) > 1
    for name, (task, labels, logits) in case.truth.items():
        found = evaluation["metrics"]["outputs"][name] if several else evaluation["metrics"]
        about = {line["name"]: line for line in evaluation["outputs"]}
        about = about[name] if several else next(iter(about.values()))
        assert about["task"] == task
        values = answers[name]
        if task == "regression":
            _check_numbers(found, labels, values)
            continue
        assert found["from_logits"] is about["from_logits"] is logits
        said, chance = _said(task, values, logits), _chance(task, values, logits)
        assert found["accuracy"] == pytest.approx(oracle.accuracy_score(labels, said))
        for average in ("macro", "micro", "weighted"):
            three = oracle.precision_recall_fscore_support(
                labels, said, average=average, zero_division=0
            )
            for key, value in zip(("precision", "recall", "f1"), three, strict=False):
                assert found[f"{key}_{average}"] == pytest.approx(value), (key, average)
        numbers = range(len(case.names[name]))
        each = oracle.precision_recall_fscore_support(labels, said, labels=numbers, zero_division=0)
        assert [row["class"] for row in found["per_class"]] == case.names[name]
        for index, row in enumerate(found["per_class"]):
            got = [row[key] for key in ("precision", "recall", "f1", "support")]
            assert got == pytest.approx([part[index] for part in each])
        if task == "multilabel":
            columns = [
                oracle.log_loss(labels[:, i], chance[:, i], labels=[0, 1])
                for i in range(labels.shape[1])
            ]
            assert found["log_loss"] == pytest.approx(np.mean(columns), rel=1e-5)
            assert found["label_accuracy"] == pytest.approx((labels == said).mean())
            continue
        count = chance.shape[1]
        loss = oracle.log_loss(labels, chance, labels=range(count))
        assert found["log_loss"] == pytest.approx(loss, rel=1e-5)
        confusion = oracle.confusion_matrix(labels, said, labels=range(count))
        assert found["confusion"] == confusion.tolist()
        if count > 5:
            top = oracle.top_k_accuracy_score(labels, chance, k=5, labels=range(count))
            assert found["top_5_accuracy"] == pytest.approx(top)


def _check_numbers(found, labels, values):
    values = values.astype(np.float64)
    assert found["mae"] == pytest.approx(oracle.mean_absolute_error(labels, values), rel=1e-6)
    squared = oracle.mean_squared_error(labels, values)
    assert found["rmse"] == pytest.approx(squared**0.5, rel=1e-6)
    assert found["r2"] == pytest.approx(oracle.r2_score(labels, values), rel=1e-6)
    one = found["per_output"][0]
    assert [one["mae"], one["rmse"], one["r2"]] == [found["mae"], found["rmse"], found["r2"]]


def _check_agreement(found, before, after, case):
    for name, (task, _, logits) in case.truth.items():
        part = found["outputs"][name] if len(case.truth) > 1 else found
        most = np.abs(before[name].astype(float) - after[name].astype(float)).max()
        assert part["max_difference"] == pytest.approx(most, rel=1e-3)
        if task == "regression":
            assert part["top1"] is None
            continue
        same = _said(task, before[name], logits) == _said(task, after[name], logits)
        same = same.all(axis=1) if same.ndim > 1 else same
        assert part["top1"] == pytest.approx(same.mean())


def _check_change(evaluation):
    pairs = [[evaluation[side]["metrics"] for side in ("before", "after")]]
    changes = [evaluation["change"]]
    if "outputs" in evaluation["change"]:
        names = list(evaluation["change"]["outputs"])
        changes += [evaluation["change"]["outputs"][name] for name in names]
        pairs += [
            [evaluation[side]["metrics"]["outputs"][name] for side in ("before", "after")]
            for name in names
        ]
    for (before, after), change in zip(pairs, changes, strict=True):
        for name, key in (("accuracy", "accuracy"), ("f1", "f1_macro"), ("r2", "r2")):
            if key in before:
                assert change[f"{name}_drop"] == pytest.approx(before[key] - after[key])
        for key in ("log_loss", "mae", "rmse"):
            if key in before:
                assert change[f"{key}_increase"] == pytest.approx(after[key] - before[key])
        if "per_class" in before:
            drops = {
                old["class"]: old["recall"] - new["recall"]
                for old, new in zip(before["per_class"], after["per_class"], strict=True)
            }
            assert change["worst_class_recall_drop"] == pytest.approx(max(drops.values()))
            assert drops[change["worst_class_recall"]] == max(drops.values())


def _check_sizes(report, source, out, case):
    before, after = report["sizes"]["before"], report["sizes"]["after"]
    assert report["input"]["blake3"] == blake3(source.read_bytes()).hexdigest()
    assert report["output"]["blake3"] == blake3(out.read_bytes()).hexdigest()
    assert before["file_bytes"] == report["input"]["bytes"] == source.stat().st_size
    assert after["file_bytes"] == report["output"]["bytes"] == out.stat().st_size
    weights = [np.asarray(weight) for weight in case.model.get_weights()]
    assert before["parameters"] == after["parameters"] == case.model.count_params()
    assert before["bytes"] == sum(weight.nbytes for weight in weights)
    assert before["nonzeros"] == sum(np.count_nonzero(weight) for weight in weights)
    macs = sum(weight.size for weight in weights if weight.ndim == 2)
    assert before["macs"] == after["macs"] == macs
    ratio = before["bytes"] / out.stat().st_size
    assert report["sizes"]["ratio"] == pytest.approx(ratio)
    assert report["sizes"]["file_ratio"] == pytest.approx(
        source.stat().st_size / out.stat().st_size
    )


def _check_tensors(report, model, out):
    """Values before from Keras, values after as h5py finds them in the written file."""
    old = {
        f"{layer.name}/{role}": np.asarray(weight)
        for layer in model.layers
        for role, weight in zip(("kernel", "bias"), layer.get_weights(), strict=False)
    }
    new = {}
    with h5py.File(out) as file:
        file["model_weights"].visititems(
            lambda _, item: (
                new.update({"/".join(item.name.split("/")[-2:]): item[()]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    nonzeros = 0
    for layer in report["layers"]:
        for row in layer["tensors"]:
            was, now = old[row["name"]], new[row["name"]]
            assert row["before"]["nonzeros"] == np.count_nonzero(was)
            assert row["after"]["nonzeros"] == np.count_nonzero(now)
            assert row["after"]["peak"] == pytest.approx(np.abs(now).max())
            nonzeros += np.count_nonzero(now)
            if not row["changes"]:
                np.testing.assert_array_equal(was, now)
                continue
            first, last = row["changes"]
            kept = row["changes"][0]["nonzeros"]
            smallest = np.sort(np.abs(was).ravel())[was.size - kept]
            pruned = np.where(np.abs(was) >= smallest, was, 0)
            for change, one, two in ((first, was, pruned), (last, pruned, now)):
                noise = np.linalg.norm((one - two).astype(np.float64))
                signal = np.linalg.norm(one.astype(np.float64))
                assert change["error"] == pytest.approx(noise / signal, rel=1e-4)
                assert change["sqnr_db"] == pytest.approx(20 * np.log10(signal / noise), rel=1e-3)
                assert change["peak_error"] == pytest.approx(np.abs(one - two).max(), rel=1e-4)
            assert kept == was.size - round(0.3 * was.size)
            assert max(len(np.unique(channel)) for channel in now.T) <= 16
    assert report["sizes"]["after"]["nonzeros"] == nonzeros
    assert report["ledger"][-1]["nonzeros"] == nonzeros
