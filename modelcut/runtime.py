"""What a step that needs the network running may ask for: a copy that runs, and rows for it.

Protocols only. `job/engine_runtime.py` implements them with an engine and the CSV of `--train`,
the tests with a network in NumPy. A step gets it as `context.runtime`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from modelcut.data.rows import Part, Rows
from modelcut.metrics.scores import Scores
from modelcut.model.encoding import Encoding
from modelcut.model.model import Model, Tensor
from modelcut.model.rewrite import Edit, Rewrite

__all__ = [
    "Activations",
    "Constraint",
    "Coupled",
    "Part",
    "Passed",
    "Rows",
    "Running",
    "Runtime",
    "Trainer",
    "TrainingPlan",
    "pinned",
]


Optimizer = Literal["adam", "adamw", "sgd"]


@dataclass(frozen=True)
class Constraint:
    """How one tensor is trained.

    Attributes:
        encoding: the encoding that its values satisfy, and must satisfy after training.
        follow: whether the mask and the cluster indices follow the latent weights.
        regrow: whether weights pruned by such a mask are still trained, so that they may come back.
        l1, l2, group_lasso: strengths of penalties on its values.
        axis: axis whose slices are the groups of `group_lasso`.
        decay: whether AdamW's weight decay applies.
        entropy_weight: with `follow`, the squared error that one bit of a cluster index is traded
            for, as a fraction of the tensor's mean square.
        movement: whether weights are scored by their accumulated movement, not by magnitude.
        on_levels: whether the network sees them on levels of 8 bits while they are trained, a scale
            for each index of `axis`; the result is not.
    """

    encoding: Encoding
    follow: bool = False
    regrow: bool = False
    l1: float = 0.0
    l2: float = 0.0
    group_lasso: float = 0.0
    axis: int = -1
    decay: bool = False
    entropy_weight: float = 0.0
    movement: bool = False
    on_levels: bool = False


@dataclass(frozen=True)
class Activations:
    """How values between layers are rounded while a network is trained.

    Attributes:
        bits: bits of each value.
        rows: samples that give the first ranges.
    """

    bits: int
    rows: Rows


@dataclass(frozen=True)
class Coupled:
    """Channels that several tensors share, and that are shrunk together while these are trained.

    Attributes:
        strength: of the group lasso: the factor of the L2 norm of all weights of each channel.
        channels: how many there are.
        parts: names of tensors, each with an axis and the channel at each index of it, int64; -1
            for none of these.
    """

    strength: float
    channels: int
    parts: tuple[tuple[str, int, np.ndarray], ...]


@dataclass(frozen=True)
class TrainingPlan:
    """What a training is told.

    Attributes:
        constraints: constraint of each trained tensor, by name; other tensors are not changed.
        optimizer: name of the optimizer: adam, adamw or sgd.
        momentum: momentum of SGD.
        weight_decay: weight decay of AdamW.
        batch: batch size.
        loss: loss function: cross_entropy, mse, mae or huber; "": the one of the output's task.
        class_weights: weight of each class of the first output in the loss; None: all are 1.
        teacher: the network whose outputs are distilled; None: none.
        distill: weight of the distillation loss, 0 to 1.
        temperature: temperature of the softmax of student and teacher.
        coupled: channels with a group lasso over all tensors that share them.
        activations: how the network is trained for integer inference; None: it is not.
    """

    constraints: Mapping[str, Constraint]
    optimizer: Optimizer = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch: int = 128
    loss: str = ""
    class_weights: np.ndarray | None = None
    teacher: Running | None = None
    distill: float = 0.0
    temperature: float = 1.0
    coupled: tuple[Coupled, ...] = ()
    activations: Activations | None = None


@dataclass(frozen=True)
class Passed:
    """What some training steps gave.

    Attributes:
        loss: mean over the steps, penalties included.
        right: number of samples classified correctly, or the summed squared error of a regression;
            0 without labels.
        rows: number of samples seen.
    """

    loss: float
    right: float
    rows: int


class Trainer(Protocol):
    """A training under way: latent weights, of which the network sees the projection."""

    def run(self, rows: Rows, rates: np.ndarray) -> Passed:
        """One step a learning rate, over successive batches of the rows."""

    def latent(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The latent weights of some sparse tensors, also of weights that are zero now."""

    def saliency(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Scores of the weights of some sparse tensors: those of least score are pruned first.

        The magnitude of the latent weight or, by `Constraint.movement`, the sum of
        -rate · w · ∂L/∂w over the steps that were done (Sanh et al. 2020, eq. 4).
        """

    def mask(self, masks: Mapping[str, np.ndarray]) -> None:
        """Says which weights of some sparse tensors are kept from now on."""

    def settle(self) -> None:
        """Puts the projection of the latest weights into the running copy, to be judged."""

    def save(self) -> None:
        """Saves the current state, in place of the one saved before."""

    def restore(self) -> None:
        """Restores the saved state."""

    def state(self) -> dict[str, np.ndarray]:
        """All that a training resumes from, including the saved state."""

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Resumes from a state.

        Raises:
            InputError: it is not one of this training.
        """

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Ranges of the tensors that are rounded between layers, by the layer that reads each."""

    def result(self) -> dict[str, tuple[np.ndarray, Encoding | None]]:
        """Values and encodings of the trained tensors; and statistics that moved, without."""


class Running(Protocol):
    """A copy of a model that runs. Tensors go by their names in the model (`dense/kernel`).

    Attributes:
        engine: name and version of what runs it.
        trainable: names of the tensors that training may change; frozen layers' are not there.
    """

    engine: str
    trainable: frozenset[str]

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The present values of some tensors, in the dtype of the engine's variable."""

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        """Replaces the values of some tensors in the running copy (not in the model)."""

    def predict(self, rows: Rows) -> list[np.ndarray]:
        """What each output gives, in inference mode."""

    def teach(self, rows: Rows) -> Sequence[np.ndarray]:
        """What a student of this network, with the loss of its task, learns; see `Rows.taught`."""

    def loss(self, rows: Rows) -> float:
        """Mean loss over the rows, in inference mode; the model's own penalties are left out."""

    def gradients(self, rows: Rows, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Gradient of the mean loss over the rows, in inference mode, by each tensor.

        A tensor that the loss does not depend on has zeros. One row at a time gives what the
        Fisher information needs.
        """

    def trainer(self, plan: TrainingPlan) -> Trainer:
        """Begins a training of this copy.

        Raises:
            ModelcutError: the plan does not fit the network.
        """

    def layer_inputs(
        self, rows: Rows, layers: Sequence[str], *, again: bool = False
    ) -> dict[str, list[np.ndarray]]:
        """The inputs of some layers (by their names in the model), in inference mode.

        Args:
            rows: the samples.
            layers: names of the layers.
            again: the same object will be asked about again: what layers gave may be kept, in
                bounded memory, so that the next pass begins where weights were replaced since.

        Returns:
            One array for each time that the layer is called, (rows, …).
        """


@dataclass(frozen=True)
class Saved:
    """The state of a training.

    Attributes:
        arrays: arrays of the state, by name.
        facts: the rest of the state, as plain JSON data.
    """

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


class Keeper(Protocol):
    """Keeps the state of one training, so that an interrupted run can be resumed."""

    def load(self) -> Saved | None:
        """The state that was saved last, or None.

        Raises:
            InputError: the checkpoint is damaged.
        """

    def fits(self) -> AbstractContextManager[None]:
        """Names the checkpoint in errors that are raised while its state is taken up.

        Raises:
            InputError: the state is that of another training.
        """

    def due(self) -> bool:
        """Whether it is time to save again."""

    def save(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Replaces the state that was saved before."""


class Runtime(Protocol):
    """Runs models on the training data.

    Attributes:
        original: the model as it was read, before the recipe's first step.
        workers: processes that train together, each of which does the same as this one.
    """

    original: Model

    @property
    def workers(self) -> int: ...

    def timer(self, model: Model, engine: str) -> AbstractContextManager[Callable[[], float]]:
        """Something that runs one training sample through a model, and tells the seconds it took.

        Args:
            model: as it is after its deferred edits.
            engine: "keras", or "litert" for a `.tflite` of float32 made of it.

        Raises:
            ModelcutError: the engine cannot run it.
        """

    def agreed(self, numbers: Sequence[float]) -> list[float]:
        """The chief's numbers in every worker, where something is decided by them."""

    def open(self, model: Model) -> Running:
        """A running copy of a model as it is after its deferred edits.

        Raises:
            ModelcutError: no engine can run it, its file carries code that is not trusted, or a
                tensor cannot be found again among the engine's variables; named.
        """

    @property
    def teacher(self) -> Running:
        """A running copy of the original, the same each time; nobody changes it."""

    def rows(
        self,
        running: Running,
        size: int,
        *,
        part: Part = "all",
        share: float = 0.1,
        shuffle: int = -1,
        teacher: Running | None = None,
    ) -> Iterator[Rows]:
        """The training rows in batches.

        Args:
            running: the running copy whose inputs and outputs the samples are for.
            size: batch size; the last batch may be smaller.
            part: all rows, or without or only those set aside for validation: the same rows for
                the same share, seed and CSV, whatever the order. "calibration": those given for
                it, without labels, else those that are not set aside.
            share: fraction of the samples that is set aside.
            shuffle: seed of the order (such as the epoch's number), or -1 for the CSV's order.
            teacher: a network whose outputs come with the rows as `Rows.taught`, where all of it
                fits into memory and samples may be in any batch: it is run once, however often the
                rows are asked for.

        Raises:
            InputError: rows or labels do not fit the network.
        """

    def scores(self, running: Running) -> Scores:
        """Fresh ones, to sum up all outputs against their labels as `modelcut eval` does."""

    def judge(self, running: Running, *, part: Part = "all", share: float = 0.1) -> dict[str, Any]:
        """The metrics of `modelcut eval` over the rows.

        Returns:
            `Scores.result()`: accuracy, log_loss, f1_macro … or mae, rmse, r2 of the first output,
            and of each one by name in `outputs` where there are several.

        Raises:
            UsageError: the CSV has no labels.
        """


def pinned(tensor: Tensor, step: int, values: np.ndarray, encoding: Encoding | None) -> Tensor:
    """The tensor with its values replaced by ones that were computed at some cost.

    Args:
        tensor: the tensor before; its edits are kept, so that the report sees every step.
        step: number of the step in the recipe, from 0.
        values: what they become, of the tensor's shape.
        encoding: encoding of the new values; None: the one that the tensor has then.
    """
    return tensor.then(
        step, _pin(values, encoding), tensor.kinds if encoding is None else encoding.kinds
    )


def _pin(values: np.ndarray, encoding: Encoding | None) -> Edit:
    def edit(_: np.ndarray, before: Encoding) -> Rewrite:
        def block(part: np.ndarray, rows: slice) -> np.ndarray:
            return values[rows].astype(part.dtype, copy=False)

        return Rewrite(before if encoding is None else encoding, block)

    return edit
