"""What outputs are for: by activation and loss, as Keras writes them, and by the user's word."""

from __future__ import annotations

import numpy as np
import pytest

from modelcut.metrics.task import Loss, decide, decisions, losses


@pytest.mark.parametrize(
    ("units", "activation", "loss", "columns", "kind", "logits"),
    [
        (1, "sigmoid", None, 1, "binary", False),
        (1, "sigmoid", "mse", 1, "binary", False),
        (1, "linear", "binary_crossentropy", 1, "binary", False),
        (2, "softmax", None, 1, "multiclass", False),
        (10, "softmax", "mse", 1, "multiclass", False),
        (10, "softmax", "binary_crossentropy", 1, "multiclass", False),
        (10, "log_softmax", None, 1, "multiclass", True),
        (10, None, "sparse_categorical_crossentropy", 1, "multiclass", False),
        (10, None, "CategoricalFocalCrossentropy", 1, "multiclass", False),
        (3, None, "KLDivergence", 1, "multiclass", False),
        (1, "tanh", "hinge", 1, "binary", True),
        (4, "sigmoid", None, 4, "multilabel", False),
        (4, "sigmoid", "binary_crossentropy", 4, "multilabel", False),
        (1, "linear", "MeanSquaredError", 1, "regression", None),
        (1, "linear", "huber_loss", 1, "regression", None),
        (2, "linear", "log_cosh", 2, "regression", None),
    ],
)
def test_the_file_says_it(units, activation, loss, columns, kind, logits):
    found = decide(units, activation, loss and Loss(loss), columns)
    assert (found.kind, found.logits, found.assumed) == (kind, logits, "")


@pytest.mark.parametrize("name", ["BinaryCrossentropy", "binary_crossentropy"])
def test_a_loss_takes_logits(name):
    assert decide(1, "linear", Loss(name, from_logits=True), 1).logits is True
    # As in Keras: a sigmoid's output is no logit, whatever the loss was told.
    assert decide(1, "sigmoid", Loss(name, from_logits=True), 1).logits is False


@pytest.mark.parametrize(
    ("units", "activation", "loss", "columns", "kind", "logits", "words"),
    [
        (1, None, None, 1, "regression", None, "taken for regression: the file has no loss"),
        (1, "linear", None, 1, "regression", None, "ends in linear"),
        (3, "linear", None, 3, "regression", None, "taken for regression"),
        (3, "linear", None, 1, "multiclass", True, "taken for logits"),
        (3, None, None, 1, "multiclass", None, "taken for 3 classes"),
        (3, None, "my_own", 1, "multiclass", None, "my_own is not known"),
        (3, "linear", None, 0, "", None, "cannot be told"),
    ],
)
def test_what_is_assumed_is_said(units, activation, loss, columns, kind, logits, words):
    found = decide(units, activation, loss and Loss(loss), columns)
    assert (found.kind, found.logits) == (kind, logits)
    assert words in found.assumed


def test_the_user_has_the_last_word():
    found = decide(1, "linear", None, 1, kind="binary", from_logits=False)
    assert (found.kind, found.logits, found.assumed) == ("binary", False, "")
    found = decide(1, "linear", Loss("mse"), 1, kind="binary")
    assert (found.kind, found.logits) == ("binary", False)  # fitted to 0 and 1
    assert decide(1, None, None, 1, named=True).kind == "binary"


BCE = {
    "module": "keras.losses",
    "class_name": "BinaryCrossentropy",
    "config": {"name": "binary_crossentropy", "from_logits": True},
}


def test_losses_as_keras_writes_them():
    names = [("b", "height"), ("s", "side")]
    logits = Loss("BinaryCrossentropy", from_logits=True)
    assert losses(None, names) == [None, None]
    assert losses("mse", names) == [Loss("mse"), Loss("mse")]
    assert losses(["mse", BCE], names) == [Loss("mse"), logits]
    assert losses({"s": BCE, "b": "mae"}, names) == [Loss("mae"), logits]
    assert losses({"side": BCE}, names) == [None, logits]
    assert losses(BCE, names) == [logits, logits]
    function = {"class_name": "function", "config": "mean_squared_error", "module": "builtins"}
    assert losses(function, names[:1]) == [Loss("mean_squared_error")]
    wrapped = {"class_name": "LossFunctionWrapper", "config": {"fn": "mae", "from_logits": False}}
    assert losses([wrapped], names[:1]) == [Loss("mae")]
    assert losses({"class_name": "Custom>Mine", "config": {}}, names[:1]) == [Loss("Mine")]


def test_decisions():
    outputs = np.array([[0.2, 0.7], [-0.5, 0.1]])
    assert decisions("regression", outputs, logits=False) is None
    assert decisions("", outputs, logits=False) is None
    np.testing.assert_array_equal(decisions("multiclass", outputs, logits=False), [1, 1])
    np.testing.assert_array_equal(decisions("binary", outputs[:, :1], logits=True), [1, 0])
    np.testing.assert_array_equal(decisions("binary", outputs[:, :1], logits=False), [0, 0])
    found = decisions("multilabel", outputs, logits=True)
    np.testing.assert_array_equal(found, [[True, True], [False, True]])
