"""Labels as they stand in a table -> class numbers, zeros and ones, or numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelcut.errors import InputError, UsageError
from modelcut.safety import printable


def labels_for(
    task: str,
    units: int,
    labels: np.ndarray,
    classes: Sequence[str] | None,
    where: str,
    columns: Sequence[str] = (),
) -> np.ndarray:
    """Labels as the accumulators take them.

    Args:
        task: one of `task.KINDS`.
        units: number of values per sample of the output.
        labels: (rows, columns), numbers or text.
        classes: class names in the order of the outputs. They map labels of every kind: text, and
            numbers by how they are written (10 is the class "10"). Only where no name is a number
            do numbers count the classes from 0.
        where: name of the file in messages.
        columns: names of the columns: one-hot columns and those of several labels that have the
            names of `classes` are taken in their order.

    Returns:
        int64 (rows,) for binary and multiclass, int64 (rows, units) for multilabel, float64
        (rows, units) for regression.

    Raises:
        InputError: labels that the model cannot mean.
    """
    if classes is not None and labels.shape[1] > 1 and set(columns) == set(classes):
        labels = labels[:, [list(columns).index(name) for name in classes]]
    elif classes is not None and labels.shape[1] == 1 and task in ("binary", "multiclass"):
        labels = _named(labels, classes, where)
    labels = _numbers(labels, where)
    if task == "regression":
        if labels.shape[1] != units:
            raise InputError(
                f"{where}: {labels.shape[1]} label columns, the model has {units} outputs"
            )
        return labels
    if task == "multilabel":
        if labels.shape[1] != units or not np.isin(labels, (0, 1)).all():
            raise InputError(
                f"{where}: the model decides {units} labels: it needs {units} columns of 0 and 1",
                "name them with --label; for numbers say --task regression, for one class a row "
                "--task multiclass",
            )
        return labels.astype(np.int64)
    count = max(2, units)
    if labels.shape[1] > 1:
        if labels.shape[1] != count or not (np.isin(labels, (0, 1)).all(axis=1)).all():
            raise InputError(
                f"{where}: {labels.shape[1]} one-hot columns, the model has {count} classes"
            )
        if not (labels.sum(axis=1) == 1).all():
            raise InputError(f"{where}: a row's one-hot columns do not sum to 1")
        return labels.argmax(axis=1)
    return _whole(labels[:, 0], count, where)


def check_classes(classes: Sequence[str], task: str, units: int, output: str) -> None:
    """Holds class names against an output, before the first sample.

    Raises:
        UsageError: they do not fit it.
    """
    if task == "regression":
        raise UsageError(
            f"--classes: the output {printable(output, 60)!r} is a regression, without classes",
            "leave it out, or set the task with --task",
        )
    count = units if task == "multilabel" else max(2, units)
    if len(classes) != count:
        raise UsageError(
            f"--classes: {len(classes)} names, the output {printable(output, 60)!r} has {count} "
            "classes",
            "name each in the order of the outputs",
        )
    twice = next((name for name in classes if list(classes).count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--classes: {printable(twice, 40)!r} is listed twice")


def _written(value: float) -> str:
    """A number as one would write it: 10, not 10.0."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _named(labels: np.ndarray, classes: Sequence[str], where: str) -> np.ndarray:
    """Class numbers (rows, 1) of labels that are class names."""
    index: dict[str, int] = {}
    numeric = False
    for number, name in enumerate(classes):
        index[name] = number
        value = _number(name)
        if value is not None:
            numeric = True
            index.setdefault(_written(value), number)
    known: dict[str | float, float] = {}
    cells = labels[:, 0].tolist()
    for cell in set(cells):
        value = _number(cell) if isinstance(cell, str) else float(cell)
        if isinstance(cell, str) and cell in index:
            known[cell] = index[cell]
        elif value is not None and _written(value) in index:
            known[cell] = index[_written(value)]
        elif value is not None and not numeric:
            known[cell] = value
        else:
            shown = cell if isinstance(cell, str) else _written(float(cell))
            raise InputError(
                f"{where}: the label {printable(shown, 40)!r} is not one of --classes",
                f"they are: {printable(', '.join(classes), 120)}",
            )
    return np.array([known[cell] for cell in cells], np.float64)[:, None]


def _numbers(labels: np.ndarray, where: str) -> np.ndarray:
    """Labels in float64."""
    if labels.dtype != object:
        return labels
    shown = next((str(value) for value in labels.ravel() if isinstance(value, str)), None)
    if shown is not None:
        raise InputError(
            f"{where}: the label {printable(shown, 40)!r} is text",
            "give the class names in the order of the model's outputs: --classes '[a, b]'",
        )
    return labels.astype(np.float64)


def _whole(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    whole = np.rint(labels)
    if not np.array_equal(whole, labels):
        odd = float(labels[whole != labels][0])
        raise InputError(
            f"{where}: the label {odd:g} is not a class number",
            "for regression say --task regression",
        )
    low, high = int(whole.min(initial=0)), int(whole.max(initial=0))
    if low < 0 or high >= count:
        hint = f"classes are numbered from 0 to {count - 1}"
        if high == count and low >= 0:
            hint += "; are these numbered from 1?"
        hint += "; other labels are named in the order of the outputs: --classes '[3, 4, 5]'"
        raise InputError(f"{where}: the label {low if low < 0 else high} is not a class", hint)
    return whole.astype(np.int64)
