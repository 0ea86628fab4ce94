"""Networks with several outputs, and outputs that the file says little of, by a real engine."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as oracle

from modelcut import engines
from modelcut.engines.litert.network import LiteRTNetwork

TFLITE = Path(__file__).parents[1] / "data" / "tflite"
ROWS = 200


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras")


@pytest.fixture(scope="module")
def folder(keras, tmp_path_factory):
    """Networks whose answers are known: 20 + x0, 60 + x1, and whether x0 is above 0."""
    folder = tmp_path_factory.mktemp("outputs")
    layers = keras.layers
    x = np.random.default_rng(0).normal(size=(ROWS, 2)).astype("float32")
    lines = ["x0,x1,width,height,side,word"]
    for a, b in x:
        word = "right" if a > 0 else "left"
        lines.append(f"{a!r},{b!r},{20 + a!r},{60 + b!r},{int(a > 0)},{word}".replace("np.", ""))
    text = "\n".join(lines).replace("float32(", "").replace(")", "")
    (folder / "t.csv").write_text(text)
    inputs = layers.Input((2,), name="in")

    def head(name, kernel, bias, activation=None):
        layer = layers.Dense(1, activation=activation, name=name)
        output = layer(inputs)
        layer.set_weights([np.array(kernel, "float32")[:, None], np.array([bias], "float32")])
        return output

    width, height = head("width", [1, 0], 20), head("height", [0, 1], 60)
    side = head("side", [50, 0], 0, "sigmoid")
    small = head("small", [0.01, 0], 0)  # logits that all lie near 0
    save = {
        "box": ({"width": width, "height": height}, "mse"),
        "keys": ({"z": width, "b": side}, {"z": "mse", "b": "binary_crossentropy"}),
        "mixed": ([side, height], ["binary_crossentropy", "mse"]),
        "logits": (small, keras.losses.BinaryCrossentropy(from_logits=True)),
        "bare": (small, None),
        "average": (layers.Average()([side, head("other", [9, 0], 0, "sigmoid")]), None),
    }
    for name, (outputs, loss) in save.items():
        model = keras.Model(inputs, outputs)
        if loss is not None:
            model.compile("sgd", loss)
        model.save(folder / f"{name}.keras")
    return folder


def evaluated(modelcut, folder, name, *flags, code=0):
    flags = ["--test", folder / "t.csv", "--inputs", "{in: [x0, x1]}", *flags]
    said = modelcut("eval", folder / f"{name}.keras", *flags, "--json")
    assert said.code == code, said
    return json.loads(said.out)


@pytest.mark.parametrize("label", ["[width, height]", "[height, width]"])
def test_labels_go_by_name_not_by_place(label, folder, modelcut):
    report = evaluated(modelcut, folder, "box", "--label", label)
    found = report["evaluation"]["after"]
    for name in ("width", "height"):
        assert found["metrics"]["outputs"][name]["mae"] < 1e-5
    assert {line["name"]: line["labels"] for line in found["outputs"]} == {
        "width": ["width"],
        "height": ["height"],
    }


def test_keys_unlike_layer_names(folder, modelcut):
    report = evaluated(modelcut, folder, "keys", "--label", "{z: width, b: side}")
    found = report["evaluation"]["after"]["metrics"]["outputs"]
    assert found["z"]["mae"] < 1e-5
    assert found["b"]["accuracy"] == 1
    assert report["warnings"] == []


def test_text_beside_numbers_and_each_output_its_own_loss(folder, modelcut):
    classes = ["--classes", "{side: [left, right]}"]
    label = ["--label", "{side: word, height: height}"]
    report = evaluated(modelcut, folder, "mixed", *label, *classes)
    found = report["evaluation"]["after"]
    assert [line["task"] for line in found["outputs"]] == ["binary", "regression"]
    assert found["metrics"]["outputs"]["side"]["accuracy"] == 1
    assert found["metrics"]["outputs"]["height"]["mae"] < 1e-5
    said = modelcut(
        *("eval", folder / "mixed.keras", "--test", folder / "t.csv"),
        *("--inputs", "{in: [x0, x1]}", *label, *classes),
    )
    for words in ("side: accuracy", "height: R²", "Classes of side"):
        assert words in said.out


def test_each_output_is_gated(folder, modelcut):
    label = ["--label", "[side, height]", "--max-mae-increase", "0.5"]
    against = ["--against", folder / "mixed.keras"]
    report = evaluated(modelcut, folder, "mixed", *label, *against, "--min-agreement", "1")
    assert [gate["output"] for gate in report["gates"]] == ["side", "height"]
    report = evaluated(
        modelcut, folder, "mixed", "--label", "[side, height]", "--min-accuracy", "{side: 1}"
    )
    assert report["gates"] == [
        {"name": "min_accuracy", "limit": 1, "value": 1, "held": True, "output": "side"}
    ]


def test_a_gate_without_a_meaning_is_refused_before_work(folder, tmp_path, modelcut):
    said = modelcut(
        *("prune", folder / "box.keras", "--sparsity", "0.5", "-o", tmp_path / "o.h5"),
        *("--test", folder / "t.csv", "--inputs", "{in: [x0, x1]}"),
        *("--label", "[width, height]", "--min-agreement", "0.9"),
    )
    assert said.code == 2
    assert "min_agreement is for classes, and has no meaning for regression" in said.err
    assert list(tmp_path.iterdir()) == []


def test_the_loss_of_the_file_tells_logits(folder, modelcut):
    """All values lie near 0: as probabilities they would all say no."""
    report = evaluated(modelcut, folder, "logits", "--label", "side")
    found = report["evaluation"]["after"]
    assert found["metrics"]["accuracy"] == 1
    assert found["metrics"]["from_logits"] is True
    assert report["warnings"] == []


def test_what_is_assumed_is_said_and_can_be_said_otherwise(folder, modelcut):
    report = evaluated(modelcut, folder, "bare", "--label", "side")
    assert report["evaluation"]["after"]["task"] == "regression"
    assert "taken for regression: the file has no loss" in report["warnings"][0]
    report = evaluated(modelcut, folder, "bare", "--label", "side", "--task", "binary")
    assert report["evaluation"]["after"]["metrics"]["accuracy"] == 1
    assert "taken for logits" in report["warnings"][0]
    flags = ["--label", "side", "--task", "binary", "--from-logits"]
    report = evaluated(modelcut, folder, "bare", *flags, "true")
    assert report["warnings"] == []
    report = evaluated(modelcut, folder, "bare", *flags, "false")
    assert report["evaluation"]["after"]["metrics"]["accuracy"] < 0.6
    assert "outside [0, 1]" in report["warnings"][0]


def test_an_average_of_probabilities_is_one(folder, modelcut):
    report = evaluated(modelcut, folder, "average", "--label", "side")
    assert report["evaluation"]["after"]["outputs"][0]["from_logits"] is False
    assert report["evaluation"]["after"]["metrics"]["accuracy"] == 1


def test_the_reference_belongs_in_every_row(folder, modelcut, tmp_path):
    small = tmp_path / "small.h5"
    assert modelcut("quantize", folder / "box.keras", "--bits", "4", "-o", small).code == 0
    said = modelcut(
        *("eval", small, "--against", folder / "box.keras", "--test", folder / "t.csv"),
        *("--inputs", "{in: [x0, x1]}", "--label", "[width, height]", "--json"),
    )
    assert said.code == 0, said
    report = json.loads(said.out)
    sizes = report["sizes"]
    assert report["against"]["path"] == str(folder / "box.keras")
    assert sizes["before"]["file_bytes"] == (folder / "box.keras").stat().st_size
    assert sizes["after"]["file_bytes"] == small.stat().st_size
    ratio = (folder / "box.keras").stat().st_size / small.stat().st_size
    assert sizes["file_ratio"] == pytest.approx(ratio)


def test_an_int8_softmax_is_no_logits(tmp_path, modelcut):
    """Its rows do not quite sum to 1: the last operator tells, not the values."""
    pytest.importorskip("ai_edge_litert")
    source = TFLITE / "int8.tflite"
    rows = (TFLITE / "rows.csv").read_text().splitlines()
    labels = [str(number % 4) for number in range(len(rows) - 1)]
    table = tmp_path / "t.csv"
    lines = (f"{row},{label}" for row, label in zip(rows, ["label", *labels], strict=True))
    table.write_text("\n".join(lines))
    said = modelcut("eval", source, "--test", table, "--json")
    assert said.code == 0, said
    report = json.loads(said.out)
    assert not any("logits" in line for line in report["warnings"])
    found = report["evaluation"]["after"]
    assert found["outputs"][0]["from_logits"] is False
    values = np.loadtxt(rows[1:], delimiter=",", dtype="float32")
    network = LiteRTNetwork(source)
    shape = [len(values), *network.inputs[0].shape]
    outputs = network.predict({network.inputs[0].name: values.reshape(shape)})[0].astype(float)
    assert np.abs(outputs.sum(axis=1) - 1).max() > 1e-3
    truth = np.array(labels, int)
    chance = outputs / outputs.sum(axis=1, keepdims=True)
    assert found["metrics"]["log_loss"] == pytest.approx(
        oracle.log_loss(truth, np.clip(chance, 2**-52, 1), labels=range(4)), rel=1e-4
    )
    assert found["metrics"]["accuracy"] == oracle.accuracy_score(truth, outputs.argmax(axis=1))


def test_many_networks_in_one_process_are_no_retracing(folder):
    """TensorFlow warns of a function that is traced again and again: each network is one."""
    logger, told = logging.getLogger("tensorflow"), []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(str(record.msg))
    logger.addHandler(handler)
    try:
        for _ in range(7):
            network = engines.open_network(
                folder / "bare.keras", "keras3", suffix=".keras", apart=False
            )
            network.predict({"in": np.ones((3, 2), "float32")})
        logger.warning(
            "5 out of the last 5 calls to <function mine> triggered tf.function retracing"
        )
    finally:
        logger.removeHandler(handler)
    assert len(told) == 1
    assert "<function mine>" in told[0]
