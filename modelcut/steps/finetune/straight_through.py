"""Trains on under every restriction, by projection and a straight-through estimator.

Bengio, Léonard and Courville 2013, section 4; Courbariaux et al. 2015, algorithm 1; masks that
follow: Guo et al. 2016, section 3; centroids: Han et al. 2016, section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from modelcut.errors import InternalError, RecipeError
from modelcut.model.encoding import Dense, Encoding, Sparse
from modelcut.model.model import Model, Tensor
from modelcut.runtime import Constraint, Rows, Running, Runtime, Trainer, TrainingPlan, pinned
from modelcut.steps import outlets
from modelcut.steps.base import TARGET_KINDS, Context, Need, Outcome, Step
from modelcut.steps.finetune._activations import Activations
from modelcut.steps.finetune._augment import Augment
from modelcut.steps.finetune._gradual import Gradual, SparsityTarget, largest
from modelcut.steps.finetune._loop import Loop, Schedule, facts

_COUNTING = 4096
Strength = Annotated[float, Field(ge=0)]


class Distill(BaseModel):
    """How far the model before the first step is a teacher (Hinton et al. 2015)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5,
        description="Weight of the distillation loss, from 0 to 1; at 1 no labels are needed.",
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        default=2.0, description="Temperature of the softmax of student and teacher."
    )


class Regularize(BaseModel):
    """Penalties on kernels, in proximal steps: weights become zero, not only small."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    l1: Strength = Field(default=0.0, description="Factor of the L1 norm of each kernel.")
    l2: Strength = Field(default=0.0, description="Factor of the squared L2 norm of each kernel.")
    group_lasso: Strength = Field(
        default=0.0,
        description="Factor of the L2 norm of each output channel's weights, so that whole "
        "channels become zero. The network's own outputs are exempt unless include names the "
        "layer.",
    )


class StraightThrough(Step):
    """Fine-tune; pruned weights stay zero, quantized weights stay quantized."""

    resumable: ClassVar[bool] = True
    aims: ClassVar[frozenset[str]] = TARGET_KINDS | {"bias", "norm", "embedding", "other"}
    absent: ClassVar[dict[str, str]] = {
        "quantize": "put the step quantize before finetune, which trains with its quantization "
        "parameters or centroids from the first epoch on",
        "budget": "it makes nothing smaller; the steps before it have one",
    }

    epochs: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Number of passes over the training samples (default: 5)."
    )
    steps: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Number of training batches, instead of epochs."
    )
    batch_size: int = Field(default=128, ge=1, description="Batch size: samples per training step.")
    optimizer: Literal["adam", "adamw", "sgd"] = Field(
        default="adam",
        description="Optimizer: Adam, Adam with decoupled weight decay, or SGD with momentum.",
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        default=1e-3, description="Peak learning rate, reached after warmup."
    )
    schedule: Literal["constant", "cosine"] = Field(
        default="cosine",
        description="Learning rate schedule: constant, or decay to zero along a cosine.",
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Fraction of the training steps over which the learning rate "
        "increases linearly from zero.",
    )
    hold: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Fraction of the training steps after which a cosine schedule begins to "
        "decay; with prune, the value of its end is a good choice.",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="Momentum of SGD (default: 0.9)."
    )
    weight_decay: Strength | None = Field(
        default=None, description="Weight decay of AdamW, applied to kernels (default: 0.01)."
    )
    loss: Literal["auto", "cross_entropy", "mse", "mae", "huber"] = Field(
        default="auto",
        description="Loss function; auto infers it from the last layer and the loss in the file.",
    )
    class_weights: Literal["balanced"] | list[Strength] | None = Field(
        default=None,
        description="Class weights of the loss: balanced (inversely proportional "
        "to class frequency), or a list with one weight per class.",
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1,
        description="Fraction of the training samples that is set aside to compare "
        "the epochs; 0: none.",
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="Which epoch's weights to keep: the best on the validation "
        "samples, or the last.",
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Number of epochs without improvement after which training stops."
    )
    mask: Literal["fixed", "dynamic"] = Field(
        default="fixed",
        description="Whether the mask of pruned weights is fixed, or dynamic: pruned weights "
        "continue to be trained, the smallest are pruned at every step, and each clustered weight "
        "takes the nearest centroid.",
    )
    entropy_weight: Strength = Field(
        default=0.0,
        description="With mask: dynamic, penalty on the entropy of the cluster indices: the "
        "squared error accepted to save one bit, as a fraction of the layer's mean square.",
    )
    prune: Gradual | None = Field(
        default=None, description="Gradual pruning while training: {sparsity: 0.97, end: 0.6, …}."
    )
    distill: Distill | None = Field(
        default=None,
        description="Distillation with the original as the teacher: {weight: 0.5, temperature: 2}.",
    )
    regularize: Regularize | None = Field(
        default=None, description="Regularization of kernels: {l1: …, l2: …, group_lasso: …}."
    )
    activations: Activations | None = Field(
        default=None,
        description="Quantization-aware training: {bits: 8} rounds what goes between layers as an "
        "int8 .tflite does, with ranges that follow the training samples, and kernels that no step "
        "has quantized to 8 bits, while the network is trained and judged.",
    )
    augment: Augment | None = Field(
        default=None, description="Augmentation of images: {shift: 2, flip: true, image: [28, 28]}."
    )
    on_interrupt: Literal["discard", "keep"] = Field(
        default="discard",
        description="Effect of Ctrl-C: discard ends the run, keep ends only "
        "this training and keeps its best state.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give epochs or steps, not both")
        if self.momentum is not None and self.optimizer != "sgd":
            raise ValueError("momentum needs optimizer: sgd")
        if self.weight_decay is not None and self.optimizer != "adamw":
            raise ValueError("weight_decay needs optimizer: adamw")
        if self.hold and self.schedule != "cosine":
            raise ValueError("hold needs schedule: cosine")
        if self.entropy_weight and self.mask != "dynamic":
            raise ValueError("entropy_weight needs mask: dynamic, so that centroids may change")
        if self.patience is not None and (self.validation == 0 or self.keep == "last"):
            raise ValueError("patience needs a validation fraction, and keep: best")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"train", "loop"}

    @property
    def activation_bits(self) -> int:
        return self.activations.bits if self.activations else 0

    @property
    def leaves(self) -> tuple[str, ...]:
        return ("sparse",) if self.prune else ()

    def apply(self, model: Model, context: Context) -> Outcome:
        chosen, skipped = self.select(model, context)
        where = f"step {context.index + 1}, {self.title}"
        runtime = context.required_runtime(self.title)
        if self.on_interrupt == "keep" and runtime.workers > 1:
            raise RecipeError(
                f"{where}: on_interrupt: keep does not go with several workers",
                "one of them may stop before the others; --checkpoint keeps what was done",
            )
        running = runtime.open(model)
        tensors: dict[str, Tensor] = {}
        for tensor in chosen:
            if tensor.name in running.trainable:
                tensors[tensor.name] = tensor
            else:
                skipped[tensor.name] = "its layer is frozen, or holds it as a state"
        if not tensors:
            raise RecipeError(f"{where}: all selected layers are frozen")
        targets = self.prune.targets(model, tensors, where) if self.prune else {}
        warnings: list[str] = []
        constraints = {
            name: self._restraint(tensor, name in targets, warnings)
            for name, tensor in tensors.items()
        }
        spared = self._spare_outputs(model, constraints)
        found, more = self._train(runtime, model, running, constraints, targets, context)
        state = {t.name: t for t in model.tensors}
        edited = {}
        for name, (values, encoding) in found.items():
            if name in tensors or name in state:
                edited[name] = _settled(state[name], values, encoding, context)
                skipped.pop(name, None)
        return Outcome(model.with_tensors(edited), {**more, **spared}, skipped, tuple(warnings))

    def _spare_outputs(self, model: Model, constraints: dict[str, Constraint]) -> dict[str, Any]:
        """Takes the group lasso off the channels that are the network's outputs; facts about it."""
        if not (self.regularize and self.regularize.group_lasso):
            return {}
        reasons = outlets.spared(model, self.include)
        found = {
            n: reasons[n] for n, one in constraints.items() if one.group_lasso and n in reasons
        }
        constraints |= {name: replace(constraints[name], group_lasso=0.0) for name in found}
        return {"without_group_lasso": found}

    def _restraint(self, tensor: Tensor, pruned: bool, warnings: list[str]) -> Constraint:
        encoding = _in_training(tensor)
        follow = self.mask == "dynamic" or pruned
        if pruned:
            encoding = Sparse(encoding.unmasked)
        elif follow and encoding.pattern:
            follow = False
            warnings.append(
                f"{self.title}: the mask of {tensor.name} is kept: it has the pattern "
                f"{encoding.pattern}"
            )
        penalty = self.regularize or Regularize()
        kernel = tensor.kind in TARGET_KINDS
        dense = isinstance(encoding.unmasked, Dense)
        if self.regularize and kernel and not dense:
            warnings.append(f"{self.title}: regularize skips {tensor.name}: it is quantized")
        kernel = kernel and dense
        movement = pruned and self.prune is not None and self.prune.criterion == "movement"
        return Constraint(
            encoding,
            follow=follow,
            regrow=self.mask == "dynamic" and not movement,
            l1=penalty.l1 if kernel else 0.0,
            l2=penalty.l2 if kernel else 0.0,
            group_lasso=penalty.group_lasso if kernel and tensor.out_axis is not None else 0.0,
            axis=tensor.out_axis if tensor.out_axis is not None else -1,
            decay=kernel,
            entropy_weight=self.entropy_weight,
            movement=movement,
            on_levels=self.activations is not None
            and tensor.kind in TARGET_KINDS
            and isinstance(encoding.unmasked, Dense),
        )

    def _train(
        self,
        runtime: Runtime,
        model: Model,
        running: Running,
        constraints: Mapping[str, Constraint],
        targets: Mapping[str, SparsityTarget],
        context: Context,
    ) -> tuple[dict[str, tuple[np.ndarray, Encoding | None]], dict[str, Any]]:
        context.say("reading the training data")
        rows, labelled, classes = self._count(runtime, running)
        batch = min(self.batch_size, rows)
        each = max(1, rows // batch)
        total = self.steps if self.steps is not None else each * (self.epochs or 5)
        teacher = runtime.teacher if self.distill else None
        plan = TrainingPlan(
            constraints,
            optimizer=self.optimizer,
            momentum=0.9 if self.momentum is None else self.momentum,
            weight_decay=0.01 if self.weight_decay is None else self.weight_decay,
            batch=batch,
            loss="" if self.loss == "auto" else self.loss,
            class_weights=self._weights(classes, context),
            teacher=teacher,
            distill=self.distill.weight if self.distill else 0.0,
            temperature=self.distill.temperature if self.distill else 1.0,
            coupled=context.coupled,
            activations=self.activations.plan(
                runtime, running, batch, replace(context, set_aside=self.validation)
            )
            if self.activations
            else None,
        )
        trainer = running.trainer(plan)
        masks, masked = self._masks(constraints, targets, trainer)
        judged = self.validation > 0 and self.keep == "best"
        ramp = self.prune.end if self.prune else 0.0
        loop = Loop(
            runtime,
            running,
            trainer,
            Schedule(
                steps=total,
                batch=batch,
                rate=self.learning_rate,
                cosine=self.schedule == "cosine",
                warmup=self.warmup,
                hold=self.hold,
                refresh=max(1, min(100, total // 100)),
                settled=ramp,
            ),
            self.validation,
            self.patience,
            self._vary(context),
            teacher if self._sees_again(total * batch, rows) else None,
            masks,
            masked,
            (lambda: self._judge(runtime, running, teacher, labelled)) if judged else None,
            context.say,
            self.on_interrupt == "keep",
            "right" if labelled and classes is not None else "",
            context.keeper,
        )
        course = loop.run()
        more = {"engine": running.engine, "batch_size": batch, **facts(course)}
        if self.activations:
            ranges = {name: list(ends) for name, ends in trainer.ranges().items()}
            more["activations"] = {"bits": self.activations.bits, "ranges": ranges}
        return trainer.result(), more

    def _sees_again(self, seen: int, rows: int) -> bool:
        """Whether what a teacher gives for a sample is worth keeping."""
        return self.augment is None and self.loss == "auto" and seen > rows

    def _count(self, runtime: Runtime, running: Running) -> tuple[int, bool, np.ndarray | None]:
        """Training rows, whether they have labels, and how many there are of each class."""
        rows, counts = 0, np.zeros(0, np.int64)
        labelled = decisions = False
        for part in runtime.rows(running, _COUNTING, part="train", share=self.validation):
            rows += len(part)
            labelled = part.labels is not None
            first = part.labels[0] if part.labels else np.zeros(0)
            decisions = first.dtype == np.int64 and first.ndim == 1
            if decisions:
                more = np.bincount(first, minlength=len(counts))
                more[: len(counts)] += counts
                counts = more
        return rows, labelled, counts if decisions else None

    def _weights(self, counts: np.ndarray | None, context: Context) -> np.ndarray | None:
        if self.class_weights is None:
            return None
        where = f"step {context.index + 1}, {self.title}: class_weights"
        if counts is None:
            raise RecipeError(f"{where}: the labels are not classes", "leave class_weights out")
        if self.class_weights == "balanced":
            return np.where(
                counts > 0, counts.sum() / (np.count_nonzero(counts) * counts.clip(1)), 0
            )
        if len(self.class_weights) < len(counts):
            raise RecipeError(
                f"{where}: {len(self.class_weights)} weights for {len(counts)} classes"
            )
        return np.asarray(self.class_weights, np.float64)

    def _vary(self, context: Context) -> Any:
        if self.augment is None:
            return None
        augment, where = self.augment, f"step {context.index + 1}, {self.title}"
        state: dict[int, np.random.Generator] = {}

        def vary(rows: Rows, epoch: int) -> Rows:
            if epoch not in state:  # each has its own, so that a training can go on in any of them
                state.clear()
                state[epoch] = np.random.default_rng([context.seed, context.index, epoch])
            return augment.apply(rows, state[epoch], where)

        return vary

    def _masks(
        self,
        constraints: Mapping[str, Constraint],
        targets: Mapping[str, SparsityTarget],
        trainer: Trainer,
    ) -> tuple[Any, list[str]]:
        """What updates the masks during training, and for which tensors."""
        following = [
            name
            for name, constraint in constraints.items()
            if self.mask == "dynamic"
            and constraint.follow
            and name not in targets
            and constraint.encoding.masked
        ]
        names = [*targets, *following]
        if not names:
            return None, []
        start = {name: float(np.mean(v == 0)) for name, v in trainer.latent(names).items()}
        prune = self.prune
        final: set[str] = set()

        def masks(scores: Mapping[str, np.ndarray], progress: float) -> dict[str, np.ndarray]:
            found = {name: largest(scores[name], start[name]) for name in following}
            if prune is None or (final and self.mask == "fixed"):
                return found
            if progress >= prune.end:
                final.add("reached")
            return {**found, **prune.masks(scores, targets, start, progress)}

        return masks, names

    def _judge(
        self, runtime: Runtime, running: Running, teacher: Running | None, labelled: bool
    ) -> tuple[dict[str, float], tuple[float, ...]]:
        """What the validation rows say."""
        if not labelled:
            assert teacher is not None
            total = count = 0.0
            for rows in runtime.rows(running, 1024, part="validation", share=self.validation):
                for mine, theirs in zip(running.predict(rows), teacher.predict(rows), strict=True):
                    total += float(np.square(mine.astype(np.float64) - theirs).sum())
                count += len(rows)
            distance = total / max(1.0, count)
            return {"distance": distance}, (-distance,)
        found = runtime.judge(running, part="validation", share=self.validation)
        if "outputs" in found:
            return _of_all(found["outputs"])
        if "accuracy" not in found:
            return {"rmse": found["rmse"]}, (-found["rmse"],)
        loss = found["log_loss"]
        return {"accuracy": found["accuracy"], "log_loss": loss}, (found["accuracy"], -loss)


def _of_all(outputs: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, float], tuple[float, ...]]:
    """Metrics of several outputs, and how good they are together: minus the sum of their losses."""
    numbers, loss = {}, 0.0
    for output, part in outputs.items():
        name = "accuracy" if "accuracy" in part else "rmse"
        numbers[f"{output}.{name}"] = part[name]
        loss += part["log_loss"] if "log_loss" in part else part["rmse"] ** 2
    return {**numbers, "loss": loss}, (-loss,)


def _in_training(tensor: Tensor) -> Encoding:
    """The encoding of a tensor's values now; what the file stores in 16 bits has that precision."""
    values, encoding = tensor.pull()
    stored = values.dtype.name
    if stored not in ("float16", "bfloat16"):
        return encoding
    return encoding.recoded(Dense(stored)) if encoding.unmasked == Dense() else encoding


def _settled(
    tensor: Tensor, values: np.ndarray, encoding: Encoding | None, context: Context
) -> Tensor:
    """The tensor with its trained values, which satisfy the encoding exactly.

    Raises:
        InternalError: they do not.
    """
    before, own = tensor.pull()
    after = own if encoding is None else encoding
    stored = after.project(values.astype(before.dtype))
    if not np.array_equal(after.project(stored), stored, equal_nan=True):
        raise InternalError(
            f"step {context.index + 1}, {tensor.name}: training broke its {after.label} encoding",
            "internal error of modelcut: please report it with the input",
        )
    return pinned(tensor, context.index, stored, after)
