"""What each output of a network is for: decided once, before the first sample.

The last activation of an output and the loss that the file was compiled with decide. Where they say
nothing the task is assumed, which the report tells; whether values are probabilities or logits is
looked for in the values only where neither the file nor the user says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("binary", "multiclass", "multilabel", "regression")
DECISIONS = KINDS[:3]

_BINARY = frozenset(("binarycrossentropy", "binaryfocalcrossentropy", "hinge", "squaredhinge"))
_CATEGORICAL = frozenset(
    "categoricalcrossentropy sparsecategoricalcrossentropy categoricalfocalcrossentropy "
    "categoricalhinge kldivergence kullbackleiblerdivergence kld".split()
)
_MARGINS = frozenset(("hinge", "squaredhinge", "categoricalhinge"))
_ERRORS = (
    *("meansquared", "meanabsolute", "mse", "mae", "mape", "msle", "huber", "logcosh"),
    *("poisson", "cosinesimilarity", "quantile"),
)
_PROBABILITIES = frozenset(("softmax", "sigmoid", "hard_sigmoid"))
_SIGMOIDS = frozenset(("sigmoid", "hard_sigmoid", "log_sigmoid"))
_SOFTMAXES = frozenset(("softmax", "log_softmax"))


@dataclass(frozen=True)
class Loss:
    """A loss as a file names it.

    Attributes:
        name: such as BinaryCrossentropy or mse.
        from_logits: the loss takes logits.
    """

    name: str
    from_logits: bool = False

    @property
    def key(self) -> str:
        """The name without case and underscores, by which Keras's two spellings are one."""
        return self.name.replace("_", "").lower().removesuffix("loss")

    @property
    def is_error(self) -> bool:
        """Whether it measures numbers against numbers."""
        return any(self.key.startswith(name) for name in _ERRORS)


@dataclass(frozen=True)
class Task:
    """What one output is for.

    Attributes:
        kind: one of `KINDS`; "" where nothing tells.
        units: number of values per sample of the output.
        logits: whether decisions are read from logits, with a threshold of 0, or from
            probabilities, with one of 0.5. None where only the values can tell, and for numbers.
        loss: loss that the file names, or None.
        assumed: what was assumed, and why; "" where file or user say it.
    """

    kind: str
    units: int
    logits: bool | None = None
    loss: Loss | None = None
    assumed: str = ""

    @property
    def decides(self) -> bool:
        """Whether the output stands for classes or labels."""
        return self.kind in DECISIONS

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "task": self.kind or None,
            "units": self.units,
            "loss": self.loss.name if self.loss else None,
            "from_logits": self.logits,
        }


def decide(
    units: int,
    activation: str | None,
    loss: Loss | None,
    columns: int,
    *,
    kind: str | None = None,
    from_logits: bool | None = None,
    named: bool = False,
) -> Task:
    """The task of an output.

    Args:
        units: number of values per sample of the output.
        activation: the last one; "linear" for none, None where it cannot be told.
        loss: loss that the file names for this output, or None.
        columns: how many columns hold its labels; 0 for none.
        kind: task that the user set, or None.
        from_logits: whether outputs are logits, as set by the user, or None.
        named: whether class names were given.
    """
    found, assumed = (kind, "") if kind else _kind(units, activation, loss, columns, named)
    if found not in DECISIONS:
        return Task(found, units, None, loss, assumed)
    logits = _logits(activation, loss) if from_logits is None else from_logits
    if from_logits is None and logits is None and activation is not None:
        # A last layer that bends nothing gives probabilities only by chance.
        logits = True
        words = f"its values taken for logits: the last activation is {activation}, and the file"
        words += " has no loss for it"
        assumed = f"{assumed}; {words}" if assumed else words
    return Task(found, units, logits, loss, assumed)


def _kind(
    units: int, activation: str | None, loss: Loss | None, columns: int, named: bool
) -> tuple[str, str]:
    key = loss.key if loss else ""
    several = "binary" if units == 1 else "multilabel"
    if key in _BINARY and activation not in _SOFTMAXES:
        return ("binary" if units == 2 and columns < 2 else several), ""
    if key in _CATEGORICAL or activation in _SOFTMAXES:
        return "multiclass", ""
    if activation in _SIGMOIDS:
        return several, ""
    if loss and loss.is_error and not named:
        return "regression", ""
    why = "the file has no loss for it" if loss is None else f"its loss {loss.name} is not known"
    if loss and loss.is_error:
        why = f"class names were given, though its loss is {loss.name}"
    ends = "its last activation cannot be told" if activation is None else f"ends in {activation}"
    why = f"{why}, and it {ends}" if activation is not None else f"{why}, and {ends}"
    if named:
        return ("binary" if units == 1 else "multiclass"), f"taken for classes: {why}"
    if units == 1 or columns > 1:
        return "regression", f"taken for regression: {why}"
    if columns == 1:
        return "multiclass", f"taken for {units} classes: {why}"
    return "", f"what it is for cannot be told: {why}, and there are no labels"


def _logits(activation: str | None, loss: Loss | None) -> bool | None:
    if activation in _PROBABILITIES:
        return False
    if activation in ("log_softmax", "log_sigmoid"):
        return True
    if loss is None:
        return None
    if loss.key in _MARGINS:
        return True
    if loss.key in _BINARY or loss.key in _CATEGORICAL:
        return loss.from_logits
    return False if loss.is_error else None


def decisions(kind: str, outputs: np.ndarray, *, logits: bool) -> np.ndarray | None:
    """What the outputs decide.

    Args:
        kind: kind of the task, one of `KINDS`.
        outputs: outputs of the network, shape (samples, units).
        logits: the threshold of a single decision is 0, not 0.5.

    Returns:
        int64 (rows,) class numbers, or bool (rows, units) labels; None where nothing is decided.
    """
    limit = 0.0 if logits else 0.5
    if kind == "multilabel":
        return outputs > limit
    if kind not in DECISIONS:
        return None
    if outputs.shape[1] == 1:
        return (outputs[:, 0] > limit).astype(np.int64)
    return outputs.argmax(axis=1)


def losses(compiled: Any, names: Sequence[Sequence[str]]) -> list[Loss | None]:
    """The loss of each output.

    Args:
        compiled: `loss` of the file's compile configuration, as it stands there.
        names: of each output, in order: its name, and further ones by which Keras knows it.
    """
    if isinstance(compiled, dict) and "class_name" not in compiled:
        return [
            next((_loss(compiled[name]) for name in known if name in compiled), None)
            for known in names
        ]
    if isinstance(compiled, (list, tuple)):
        if len(compiled) == len(names):
            return [_loss(part) for part in compiled]
        return [None] * len(names)
    return [_loss(compiled)] * len(names)


def _loss(part: Any) -> Loss | None:
    """A loss by name, or as Keras writes objects and functions of its own."""
    if isinstance(part, (list, tuple)) and len(part) == 1:
        return _loss(part[0])
    if isinstance(part, str):
        return Loss(part)
    if not isinstance(part, Mapping):
        return None
    config = part.get("config")
    name = part.get("class_name")
    if not isinstance(name, str):
        return _loss(next(iter(part.values()))) if len(part) == 1 else None
    if isinstance(config, str):
        return Loss(config)
    config = config if isinstance(config, Mapping) else {}
    if name in ("LossFunctionWrapper", "function") and isinstance(config.get("fn"), str):
        name = config["fn"]
    return Loss(name.rpartition(">")[2], config.get("from_logits") is True)
