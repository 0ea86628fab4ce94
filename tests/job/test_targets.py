"""Labels, tasks and class names of several outputs: by name."""

from __future__ import annotations

import numpy as np
import pytest

from modelcut.data import DataOptions, InputSpec
from modelcut.data.csv import Csv
from modelcut.engines import OutputSpec
from modelcut.errors import InputError, UsageError
from modelcut.job.targets import Wanted, paired, plan
from modelcut.metrics.limits import Gates
from modelcut.metrics.scores import Agreement, Scores, Target, check_limits
from modelcut.metrics.task import Task


class Network:
    """Only what is asked of it before it runs."""

    fixed_batch = None

    def __init__(self, *outputs, loss=None):
        self.outputs, self.loss, self.inputs = outputs, loss, (InputSpec("in", (2,)),)


KEYED = (
    OutputSpec("a", (1,), "linear", "width_layer", keyed=True),
    OutputSpec("b", (1,), "sigmoid", "side_layer", keyed=True),
)
LISTED = (OutputSpec("width", (1,), "linear"), OutputSpec("side", (3,), "softmax"))
HEADER = "x0,x1,{}\n1,2,3,4\n5,6,7,8\n"


def planned(tmp_path, network, columns="p,q", wanted=None, **options):
    path = tmp_path / "t.csv"
    path.write_text(HEADER.format(columns))
    made = DataOptions(inputs={"in": ["x0", "x1"]}, **options)
    table = Csv.open(path, made, network.inputs)
    return plan(network, table, made, wanted or Wanted())


def columns(found):
    return {target.name: target.columns for target in found.outputs}


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_columns_named_like_outputs_are_theirs(order, tmp_path):
    found = planned(tmp_path, Network(*KEYED), "b,a", label=order)
    assert columns(found) == {"a": ("a",), "b": ("b",)}
    places = {target.name: target.places for target in found.outputs}
    assert places == {name: (order.index(name),) for name in order}


def test_so_are_those_named_like_their_layers(tmp_path):
    label = ["side_layer", "width_layer"]
    found = planned(tmp_path, Network(*KEYED), "side_layer,width_layer", label=label)
    assert columns(found) == {"a": ("width_layer",), "b": ("side_layer",)}


def test_a_mapping_says_it(tmp_path):
    found = planned(tmp_path, Network(*KEYED), label={"side_layer": "p", "a": "q"})
    assert columns(found) == {"a": ("q",), "b": ("p",)}
    found = planned(tmp_path, Network(*KEYED), label={"b": "p"})
    assert columns(found) == {"a": (), "b": ("p",)}
    assert "'a' has no label" in found.notes[0]
    with pytest.raises(UsageError, match="no output 'c'"):
        planned(tmp_path, Network(*KEYED), label={"c": "p"})


def test_keys_have_no_order(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be told which .*\{a: column, b: column\}"):
        planned(tmp_path, Network(*KEYED), label=["p", "q"])
    found = planned(tmp_path, Network(*LISTED), label=["p", "q"])
    assert columns(found) == {"width": ("p",), "side": ("q",)}
    assert "p to width, q to side" in found.notes[0]
    with pytest.raises(UsageError, match="cannot be told"):  # one name fits, the other does not
        planned(tmp_path, Network(*LISTED), "p,width", label=["p", "width"])


def test_each_output_has_its_own_loss_task_and_classes(tmp_path):
    logits = {"class_name": "BinaryCrossentropy", "config": {"from_logits": True}}
    outputs = (*LISTED, OutputSpec("third", (1,), "linear"))
    network = Network(*outputs, loss={"width": "mae", "side": None, "third": logits})
    options = {
        "label": {"width": "p", "side": "q", "third": "x1"},
        "classes": {"side": ["l", "m", "r"], "third": ["no", "yes"]},
    }
    found = planned(tmp_path, network, **options)
    kinds = [(target.task.kind, target.task.logits) for target in found.outputs]
    assert kinds == [("regression", None), ("multiclass", False), ("binary", True)]
    assert [target.classes for target in found.outputs] == [None, ("l", "m", "r"), ("no", "yes")]
    assert not found.notes
    said = Wanted({"width": "binary"}, {"width": True})
    found = planned(tmp_path, network, wanted=said, label=options["label"])
    assert (found.outputs[0].task.kind, found.outputs[0].task.logits) == ("binary", True)
    with pytest.raises(UsageError, match="--from-logits: applies to classifier outputs"):
        planned(tmp_path, network, wanted=Wanted("auto", {"width": True}), label=options["label"])
    with pytest.raises(UsageError, match="2 names, the output 'side' has 3"):
        planned(tmp_path, network, label=options["label"], classes={"side": ["l", "r"]})


def test_without_labels_nothing_is_decided_that_no_one_means(tmp_path):
    """A generator's picture, an autoencoder's reconstruction: no largest number is an answer."""
    for spec in (
        OutputSpec("picture", (28, 28, 1), "sigmoid"),
        OutputSpec("same", (2,), "sigmoid"),
        OutputSpec("numbers", (5,), "linear"),
    ):
        path = tmp_path / "bare.csv"
        path.write_text("x0,x1\n1,2\n3,4\n")
        network = Network(spec)
        table = Csv.open(path, DataOptions(), network.inputs)
        found = plan(network, table, DataOptions(), Wanted())
        assert not found.outputs[0].task.decides
        assert len(found.notes) == 1
        agreement = Agreement(found.outputs)
        agreement.look([np.ones((2, 5))], [np.ones((2, 5)) * 2])
        assert agreement.result() == {"top1": None, "max_difference": 1.0}
        with pytest.raises(UsageError, match="no meaning"):
            check_limits(Gates(min_agreement=0.9), found.outputs, compared=True)


def test_outputs_of_two_formats_are_paired_by_name():
    keras = (OutputSpec("a", (1,), None, "left", True), OutputSpec("b", (1,), None, "right", True))
    assert paired(keras, keras[::-1]) == [1, 0]
    assert paired(keras, (OutputSpec("right", (1,), None), OutputSpec("left", (1,), None))) == [
        1,
        0,
    ]
    many = [OutputSpec(f"y{i}", (1,), None) for i in range(11)]
    numbered = [OutputSpec(f"output_{i}", (1,), None) for i in (0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert paired(many, numbered) == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 2]
    tflite = [OutputSpec(f"StatefulPartitionedCall:{i}", (1,), None) for i in (1, 0)]
    assert paired(keras, tflite) == [1, 0]
    assert paired(keras[:1], keras) == [0]
    with pytest.raises(InputError, match="1 and 2 outputs"):
        paired((OutputSpec("z", (1,), None),), keras)


def agreed(kind, one, two, logits=False):
    one, two = np.array(one, float), np.array(two, float)
    agreement = Agreement([Target("y", Task(kind, one.shape[1], logits))])
    agreement.look([one], [two])
    return agreement.result()["top1"]


def test_agreement_is_that_of_the_task():
    assert agreed("binary", [[0.2], [0.7], [-0.1]], [[0.6], [0.8], [-3]], logits=True) == 1
    assert agreed("binary", [[0.2], [0.7], [0.1]], [[0.6], [0.8], [0.3]]) == pytest.approx(2 / 3)
    assert agreed("multiclass", [[0.2, 0.8], [0.9, 0.1]], [[0.4, 0.6], [0.3, 0.7]]) == 0.5
    # The largest label is the same in both rows; all labels are in one.
    assert agreed("multilabel", [[0.6, 0.9], [0.6, 0.9]], [[0.4, 0.9], [0.7, 0.8]]) == 0.5
    assert agreed("regression", [[0.2], [0.7]], [[0.3], [0.9]]) is None
    assert agreed("multiclass", [[np.nan, 1], [1, 0]], [[np.nan, 1], [1, 0]]) == 0.5


def measured(before, after):
    report = {"evaluation": {"after": {"metrics": {"outputs": after}}, "change": {}}}
    names = {name: {"accuracy_drop": before[name]["accuracy"] - after[name]["accuracy"]}
             for name in before if "accuracy" in before[name]}  # fmt: skip
    report["evaluation"]["change"] = {"outputs": names}
    return report


def test_the_worst_output_is_gated_or_the_one_that_is_named():
    before = {"a": {"mae": 1.0}, "b": {"accuracy": 0.94}, "c": {"accuracy": 0.94}}
    after = {"a": {"mae": 1.0}, "b": {"accuracy": 0.93}, "c": {"accuracy": 0.498}}
    report = measured(before, after)
    (verdict,) = Gates(max_accuracy_drop=0.02).judge(report)
    assert (verdict["held"], verdict["output"]) == (False, "c")
    assert verdict["value"] == pytest.approx(0.442)
    verdicts = Gates(max_accuracy_drop={"b": 0.02, "c": 0.1}).judge(report)
    assert [v["held"] for v in verdicts] == [True, False]
    (verdict,) = Gates(min_accuracy={"b": 0.9}).judge(report)
    assert (verdict["held"], verdict["value"], verdict["output"]) == (True, 0.93, "b")
    after["b"]["accuracy"] = float("nan")
    (verdict,) = Gates(min_accuracy=0.1).judge(measured(before, after))
    assert (verdict["held"], verdict["value"]) == (False, None)


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ({"min_accuracy": {"width": 0.5}}, "no meaning for regression"),
        ({"min_r2": {"side": 0.5}}, "min_r2.side is for regression"),
        ({"min_agreement": {"width": 0.5}}, "no meaning for regression"),
        ({"max_f1_drop": {"nowhere": 0.5}}, "no output of this name"),
        ({"min_accuracy": {"bare": 0.5}}, "needs labels"),
    ],
)
def test_a_gate_that_nothing_can_judge_is_refused(gates, words):
    targets = [
        Target("width", Task("regression", 1), (0,), ("w",)),
        Target("side", Task("binary", 1, logits=False), (1,), ("s",)),
        Target("bare", Task("binary", 1, logits=False)),
    ]
    with pytest.raises(UsageError, match=words):
        check_limits(Gates(**gates), targets, compared=True)
    check_limits(Gates(min_accuracy=0.5, min_r2=0.1, min_agreement=0.1), targets, compared=True)
    with pytest.raises(UsageError, match="--against"):
        check_limits(Gates(min_agreement=0.5), targets, compared=False)


def test_of_gates_under_if_data_only_names_of_outputs_are_refused():
    targets = [Target("width", Task("regression", 1), (0,), ("w",))]
    limits = {"min_accuracy": 0.5, "min_agreement": {"width": 1}, "max_latency_ratio": 1}
    check_limits(Gates(if_data=limits), targets, compared=False)
    with pytest.raises(UsageError, match="no output of this name"):
        check_limits(Gates(if_data={"min_accuracy": {"side": 1}}), targets, compared=False)


def test_values_guess_alike_for_both_networks():
    """The original's values tell whether outputs are logits; the other is read the same way."""
    target = Target("y", Task("binary", 1, None), (0,), ("s",))
    labels = np.array([0, 1, 1])
    first = Scores([target])
    second = Scores([target], first)
    for scores, values in ((first, [[-1.0], [0.2], [3.0]]), (second, [[0.1], [0.2], [0.9]])):
        scores.update([labels], [np.array(values)])
    assert first.result()["accuracy"] == 1
    assert second.result()["from_logits"]
    assert second.result()["accuracy"] == pytest.approx(2 / 3)
    assert "taken for logits, guessed" in second.notes()[0]
    assert second.described()[0]["guessed"]
