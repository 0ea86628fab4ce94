"""Labels of every kind, and class names, which always map them."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from modelcut.cli import flags
from modelcut.data import DataOptions
from modelcut.errors import InputError, UsageError
from modelcut.metrics.labels import check_classes, labels_for


def column(*values):
    dtype = object if any(isinstance(value, str) for value in values) else float
    return np.array([[value] for value in values], dtype)


def test_labels_of_every_kind():
    np.testing.assert_array_equal(labels_for("multiclass", 3, column(0.0, 2.0), None, "t"), [0, 2])
    named = labels_for("multiclass", 3, column("dog", "cat"), ["cat", "dog", "emu"], "t")
    np.testing.assert_array_equal(named, [1, 0])
    hot = labels_for("multiclass", 3, np.array([[0, 0, 1.0], [1, 0, 0]]), None, "t")
    np.testing.assert_array_equal(hot, [2, 0])
    mixed = np.array([[1.5], [2.0]], object)  # numbers beside another head's text
    assert labels_for("regression", 1, mixed, None, "t").dtype == np.float64


@pytest.mark.parametrize(
    ("classes", "labels", "codes"),
    [
        (["0", "1", "10", "11", "2"], column(0, 1, 2, 10, 11), [0, 1, 4, 2, 3]),
        (["3", "4", "5", "6", "7", "8"], column(8, 3, 5), [5, 0, 2]),
        (["1.5", "2"], column(2.0, 1.5), [1, 0]),
        (["007", "12345678"], column(12345678, 7), [1, 0]),
        (["a", "1"], column("1", "a"), [1, 0]),
        (["a", "1"], column(1.0, "a"), [1, 0]),
        (["cat", "dog"], column(1, 0), [1, 0]),  # no name is a number: they count the classes
    ],
)
def test_names_map_labels(classes, labels, codes):
    found = labels_for("multiclass", len(classes), labels, classes, "t.csv")
    np.testing.assert_array_equal(found, codes)


def test_one_hot_columns_are_taken_in_the_order_of_the_names():
    hot = np.array([[1.0, 0], [0, 1], [1, 0]])
    found = labels_for("multiclass", 2, hot, ["cat", "dog"], "t.csv", ["dog", "cat"])
    np.testing.assert_array_equal(found, [1, 0, 1])
    found = labels_for("multilabel", 2, hot, ["cat", "dog"], "t.csv", ["dog", "cat"])
    np.testing.assert_array_equal(found, hot[:, ::-1])


@pytest.mark.parametrize(
    ("task", "units", "labels", "classes", "words"),
    [
        ("multiclass", 3, column(-1.0), None, "not a class"),
        ("multiclass", 3, column(1.0, 2.0, 3.0), None, "numbered from 1"),
        ("multiclass", 6, column(3.0, 8.0), None, "--classes '[3, 4, 5]'"),
        ("multiclass", 3, column(0.5), None, "not a class number"),
        ("multiclass", 3, column("cat"), None, "--classes"),
        ("multiclass", 2, column("cow"), ["cat", "dog"], "'cow' is not one of --classes"),
        ("multiclass", 2, column(5.0), ["3", "4"], "'5' is not one of --classes"),
        ("multiclass", 3, np.ones((2, 3)), None, "sum to 1"),
        ("multiclass", 3, np.ones((2, 2)), None, "one-hot"),
        ("multilabel", 3, np.ones((2, 2)), None, "3 columns"),
        ("regression", 2, column(1.0), None, "label columns"),
    ],
)
def test_labels_that_cannot_be_meant(task, units, labels, classes, words):
    with pytest.raises(InputError) as caught:
        labels_for(task, units, labels, classes, "t.csv")
    assert words in f"{caught.value}"


def test_names_must_fit_the_output():
    check_classes(["a", "b"], "binary", 1, "y")
    for classes, task, units, words in (
        (["a", "b"], "multiclass", 3, "2 names, the output 'y' has 3"),
        (["a", "a"], "multiclass", 2, "'a' is listed twice"),
        (["a", "b"], "regression", 1, "is a regression"),
    ):
        with pytest.raises(UsageError, match=words):
            check_classes(classes, task, units, "y")


def test_names_as_yaml_gives_them():
    assert DataOptions(classes=[3, 4.5, "x"]).classes == ["3", "4.5", "x"]
    assert DataOptions(classes={"side": [0, 1]}).classes == {"side": ["0", "1"]}
    for options in ({"classes": [False, True]}, {"label": True}, {"label": ["a", False]}):
        with pytest.raises(ValidationError, match="YAML reads yes, no"):
            DataOptions(**options)


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        (["[a, b]"], ["a", "b"]),
        (["a", "b"], ["a", "b"]),
        (["{side: [l, r]}"], {"side": ["l", "r"]}),
        (["[3, 10]"], ["3", "10"]),
    ],
)
def test_names_as_the_shell_gives_them(given, classes):
    fields = flags.fields_given(DataOptions, {"classes": given})
    assert DataOptions(**fields).classes == classes
