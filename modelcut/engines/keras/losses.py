"""Losses in TensorFlow, of outputs that are probabilities or logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_LEAST = 1e-7


@dataclass(frozen=True)
class Goal:
    """What one output is trained for.

    Attributes:
        task: task of the output: binary, multiclass, multilabel or regression.
        units: number of values per sample of the output.
        loss: loss function: cross_entropy, mse, mae or huber.
        probabilities: whether the output is that of a softmax or sigmoid, not logits.
    """

    task: str
    units: int
    loss: str
    probabilities: bool


def flat(output: Any, units: int) -> Any:
    """(rows, units) in float32, axes of length 1 dropped."""
    import tensorflow as tf

    logits = getattr(output, "_keras_logits", None)
    flattened = tf.reshape(tf.cast(output, tf.float32), (-1, units))
    if logits is not None:
        flattened._modelcut_logits = tf.reshape(tf.cast(logits, tf.float32), (-1, units))
    return flattened


def logits(goal: Goal, output: Any) -> Any:
    """Log-odds or, up to a constant for each row, log-probabilities of a flat output."""
    import tensorflow as tf

    if not goal.probabilities:
        return output
    known = getattr(output, "_modelcut_logits", None)
    if known is not None:
        return known
    inside = tf.clip_by_value(output, _LEAST, 1 - _LEAST)
    if goal.task == "multiclass" or output.shape[-1] == 2:
        return tf.math.log(inside)
    return tf.math.log(inside) - tf.math.log1p(-inside)


def loss(goal: Goal, labels: Any, output: Any) -> Any:
    """Loss of each row, (rows,)."""
    import tensorflow as tf

    if goal.loss == "cross_entropy":
        scores = logits(goal, output)
        if goal.task == "multilabel" or goal.units == 1:
            targets = tf.reshape(tf.cast(labels, tf.float32), tf.shape(scores))
            each = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=scores)
            return tf.reduce_mean(each, axis=1)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=scores)
    if goal.task in ("binary", "multiclass") and goal.units > 1:
        targets = tf.one_hot(labels, goal.units, dtype=tf.float32)
    else:
        targets = tf.reshape(tf.cast(labels, tf.float32), tf.shape(output))
    error = output - targets
    if goal.loss == "mae":
        return tf.reduce_mean(tf.abs(error), axis=1)
    if goal.loss == "huber":
        size = tf.abs(error)
        each = tf.where(size <= 1, 0.5 * tf.square(error), size - 0.5)
        return tf.reduce_mean(each, axis=1)
    return tf.reduce_mean(tf.square(error), axis=1)


def shown(goal: Goal, output: Any) -> Any:
    """What `likeness` compares: logits where the goal is a decision, else the output itself."""
    return logits(goal, output) if goal.loss == "cross_entropy" else output


def likeness(goal: Goal, output: Any, teacher: Any, temperature: float) -> Any:
    """Distance of each row from what the teacher gives (Hinton et al. 2015, section 2), (rows,).

    Of decisions, the cross entropy at a temperature, times its square so that gradients keep
    their size, less the teacher's own entropy; of numbers, the squared error.

    Args:
        goal: what the output is trained for.
        output: flat output of the student.
        teacher: `shown` of the teacher's.
        temperature: temperature of the softmax of both.
    """
    import tensorflow as tf

    if goal.loss != "cross_entropy":
        return tf.reduce_mean(tf.square(output - teacher), axis=1)
    mine, theirs = logits(goal, output) / temperature, teacher / temperature
    if goal.task == "multilabel" or goal.units == 1:
        soft = tf.sigmoid(theirs)
        cross = tf.nn.sigmoid_cross_entropy_with_logits(labels=soft, logits=mine)
        own = tf.nn.sigmoid_cross_entropy_with_logits(labels=soft, logits=theirs)
        return temperature**2 * tf.reduce_mean(cross - own, axis=1)
    soft = tf.nn.softmax(theirs)
    difference = tf.nn.log_softmax(theirs) - tf.nn.log_softmax(mine)
    return temperature**2 * tf.reduce_sum(soft * difference, axis=1)


def hits(goal: Goal, labels: Any, output: Any) -> Any:
    """How many rows of a batch are decided rightly, or the summed squared error of numbers."""
    import tensorflow as tf

    if goal.task == "regression":
        targets = tf.reshape(tf.cast(labels, tf.float32), tf.shape(output))
        return tf.reduce_sum(tf.reduce_mean(tf.square(output - targets), axis=1))
    if goal.task == "multilabel" or goal.units == 1:
        limit = 0.5 if goal.probabilities else 0.0
        targets = tf.reshape(tf.cast(labels, tf.float32), tf.shape(output)) > 0.5
        right = tf.reduce_all((output > limit) == targets, axis=1)
    else:
        right = tf.argmax(output, axis=1, output_type=tf.int64) == tf.cast(labels, tf.int64)
    return tf.reduce_sum(tf.cast(right, tf.float32))


def as_tensors(goals: Sequence[Goal], labels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Labels in the dtypes that the losses take."""
    result = []
    for goal, part in zip(goals, labels, strict=True):
        decision = goal.task in ("binary", "multiclass")
        result.append(part.astype(np.int64 if decision else np.float32, copy=False))
    return result
