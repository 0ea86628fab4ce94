"""The training step: forward on projected weights, backward onto the latent ones.

One `tf.function` runs many steps over rows that are already in memory; Python takes part once a
block of batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from modelcut.data.rows import Rows
from modelcut.engines import quiet
from modelcut.engines.keras import integers, losses
from modelcut.engines.keras.latent import Following, Latent, Masked, Shared, latent
from modelcut.engines.keras.losses import Goal
from modelcut.engines.keras.network import stateful_layers
from modelcut.errors import InputError
from modelcut.model.encoding import Encoding
from modelcut.runtime import Constraint, Coupled, Passed, TrainingPlan
from modelcut.safety import printable

if TYPE_CHECKING:
    from modelcut.engines.keras.team import Team

_BETAS = (0.9, 0.999, 1e-7)


class _Running(Protocol):
    """What of a running copy (`running.KerasRunning`) is trained."""

    network: Any
    batches: str
    model: Any
    variables: dict[str, Any]
    trainable: frozenset[str]
    team: Team
    goals: tuple[Goal, ...]

    def forward(self, inputs: Sequence[Any], *, training: bool) -> list[Any]: ...

    def tensors(self, rows: Rows) -> list[Any]: ...

    def labels(self, rows: Rows) -> list[Any]: ...


class KerasTrainer:
    """See `runtime.Trainer`."""

    def __init__(self, running: _Running, plan: TrainingPlan) -> None:
        import tensorflow as tf

        from modelcut.engines.keras.tf_errors import value_of

        self._tf = tf
        self._running = running
        self._plan = plan
        self._team = running.team
        if self._team.replicas > plan.batch:
            raise InputError(
                f"a batch of {plan.batch} cannot be split over {self._team.replicas} devices",
                "a larger batch_size, or --distribute none",
            )
        fixed, stateful = running.network.fixed_batch, stateful_layers(running.network)
        if stateful and fixed not in (None, plan.batch):
            raise InputError(
                f"the layer {printable(stateful[0])!r} is stateful and takes batches of {fixed} "
                f"samples, not {plan.batch}",
                f"--batch-size {fixed}",
            )
        self._goals = [_with_loss(goal, plan.loss) for goal in running.goals]
        self._weights = None
        if plan.class_weights is not None:
            self._weights = tf.constant(plan.class_weights, tf.float32)
        self._names = list(plan.constraints)
        self._targets = [value_of(running.variables[name]) for name in self._names]
        self._latents: list[Latent] = []
        start = hashlib.sha256()
        for name, constraint in plan.constraints.items():
            values = np.array(running.variables[name])
            start.update(f"{name} {constraint.encoding.label}".encode() + values.tobytes())
            self._latents.append(
                latent(
                    constraint.encoding,
                    values,
                    follow=constraint.follow,
                    regrow=constraint.regrow,
                    entropy_weight=constraint.entropy_weight,
                )
            )
        self._team.check_same({"start of a training, after the steps before it,": start.digest()})
        self._slots = [
            [_Slot(tf, variable, plan.optimizer) for variable in one.variables]
            for one in self._latents
        ]
        self._moved = {
            name: tf.Variable(tf.zeros_like(one.weights), trainable=False)
            for (name, constraint), one in zip(plan.constraints.items(), self._latents, strict=True)
            if constraint.movement
        }
        self._integers: integers.Integers | None = None
        if (activations := plan.activations) is not None:
            tensors, size = running.tensors(activations.rows), plan.batch
            self._integers = integers.simulate(
                running.network,
                activations.bits,
                (
                    [t[at : at + size] for t in tensors]
                    for at in range(0, len(activations.rows), size)
                ),
                outputs=False,
            )
        self._count = tf.Variable(0, dtype=tf.int64, trainable=False)
        # Statistics that training moves, such as those of a batch normalization.
        self._moving = {
            name: value_of(variable)
            for name, variable in running.variables.items()
            if name not in running.trainable
        }
        self._at_start = {name: v.numpy() for name, v in self._moving.items()}
        self._block = tf.function(self._steps, reduce_retracing=True)
        self._project = tf.function(self._assign_all)
        self._kept: list[Any] | None = None

    def run(self, rows: Rows, rates: np.ndarray) -> Passed:
        running = self._running
        if rows.labels is None and self._plan.distill < 1:
            running.labels(rows)  # says what is missing
        labels = [] if rows.labels is None else running.labels(rows)
        from modelcut.engines.keras.tf_errors import translated

        fixed = running.network.fixed_batch
        hint = f"{running.batches}: --batch-size {fixed}" if fixed else ""
        with translated(hint), self._team.translated(), quiet():
            speed = self._tf.convert_to_tensor(rates.astype(np.float32))
            taught = [self._tf.convert_to_tensor(part) for part in rows.taught or ()]
            loss, right = self._block(running.tensors(rows), labels, taught, speed)
            for one in self._latents:
                if isinstance(one, (Following, Masked)):
                    one.recount()
        count = len(rates) * min(self._plan.batch, len(rows))
        return Passed(float(loss) / len(rates), float(right), count)

    def _steps(
        self, inputs: list[Any], labels: list[Any], taught: list[Any], rates: Any
    ) -> tuple[Any, Any]:
        tf = self._tf
        size = self._plan.batch

        def step(index: Any, loss: Any, right: Any) -> tuple[Any, Any, Any]:
            one = self._team.run(replica, index)
            return index + 1, loss + one[0], right + one[1]

        def replica(index: Any) -> tuple[Any, Any]:
            first, last = self._share()
            part = slice(index * size + first, index * size + last)
            weight = tf.cast((last - first) / size, tf.float32)
            cut = [[each[part] for each in group] for group in (inputs, labels, taught)]
            return self._step(cut[0], cut[1], cut[2], rates[index], weight)

        start = (tf.constant(0), tf.constant(0.0), tf.constant(0.0))
        steps = tf.shape(rates)[0]
        # One after the other: a step needs the weights that the one before it left.
        _, loss, right = tf.while_loop(
            lambda index, *_: index < steps, step, start, parallel_iterations=1
        )
        return loss, right

    def _share(self) -> tuple[Any, Any]:
        """The first row of a batch that this replica takes, and the first that it does not."""
        replicas, place = self._team.replicas, self._team.place()
        return place * self._plan.batch // replicas, (place + 1) * self._plan.batch // replicas

    def _step(
        self, inputs: list[Any], labels: list[Any], taught: list[Any], rate: Any, weight: Any
    ) -> tuple[Any, Any]:
        """One step on a part of the batch that counts `weight`."""
        tf = self._tf
        self._assign()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._targets)
            outputs = self._running.forward(inputs, training=True)
            seen = self._integers.seen() if self._integers else []
            total = self._total(inputs, labels, taught, outputs)
            if self._running.model.losses:
                total += tf.add_n([tf.cast(x, tf.float32) for x in self._running.model.losses])
            if self._team.replicas > 1:
                total *= weight
        found = tape.gradient(total, self._targets, unconnected_gradients="zero")
        right = tf.constant(0.0)
        if labels:
            right = losses.hits(self._goals[0], labels[0], outputs[0])
        found = [tf.convert_to_tensor(part) for part in found]
        seen = [self._team.apart(ends) for ends in seen]
        summed = self._team.total([*found, total, right, *seen])
        found, (total, right, *seen) = summed[: len(found)], summed[len(found) :]
        if self._integers:
            self._integers.follow(seen)
        self._count.assign_add(1)
        parts = zip(found, self._targets, self._latents, self._slots, self._names, strict=True)
        for gradient, target, one, slots, name in parts:
            constraint = self._plan.constraints[name]
            slope = gradient
            if name in self._moved:
                step = tf.cast(rate, slope.dtype) * slope * one.weights
                self._moved[name].assign_sub(step)
            if constraint.l2:
                slope += tf.cast(2 * constraint.l2, slope.dtype) * target
            for slot, part in zip(slots, one.gradients(slope), strict=True):
                self._update(slot, part, rate)
            self._shrink(one, constraint, rate)
        for group in self._plan.coupled:
            self._shrink_together(group, rate)
        for one in self._latents:
            one.settle()
        return total, right

    def _total(
        self, inputs: list[Any], labels: list[Any], taught: list[Any], outputs: list[Any]
    ) -> Any:
        """The mean loss of a batch: by the labels, and by the teacher."""
        tf = self._tf
        plan = self._plan
        total = tf.constant(0.0)
        if labels and plan.distill < 1:
            for number, (goal, truth, output) in enumerate(
                zip(self._goals, labels, outputs, strict=True)
            ):
                each = losses.loss(goal, truth, output)
                if self._weights is not None and number == 0:
                    each *= tf.gather(self._weights, truth)
                total += (1 - plan.distill) * tf.reduce_mean(each)
        if plan.distill > 0:
            teacher: Any = plan.teacher
            shown = taught or map(tf.stop_gradient, teacher.shown(self._goals, inputs))
            for goal, output, theirs in zip(self._goals, outputs, shown, strict=True):
                each = losses.likeness(goal, output, theirs, plan.temperature)
                total += plan.distill * tf.reduce_mean(each)
        return total

    def _assign(self) -> None:
        for target, one, name in zip(self._targets, self._latents, self._names, strict=True):
            constraint, value = self._plan.constraints[name], one.value()
            if constraint.on_levels:
                value = integers.kernel_on_levels(value, constraint.axis)
            target.assign(value)

    def _assign_all(self) -> None:
        def replica() -> Any:
            self._assign()
            return self._tf.constant(0)

        self._team.run(replica)

    def _update(self, slot: _Slot, gradient: Any, rate: Any) -> None:
        """Adam (Kingma and Ba 2015, algorithm 1) or momentum, fused in one kernel."""
        tf = self._tf
        gradient = tf.cast(gradient, slot.variable.dtype)
        rate = tf.cast(rate, slot.variable.dtype)
        if self._plan.optimizer == "sgd":
            tf.raw_ops.ResourceApplyMomentum(
                var=slot.variable.handle,
                accum=slot.first.handle,
                lr=rate,
                grad=gradient,
                momentum=tf.cast(self._plan.momentum, slot.variable.dtype),
            )
            return
        one, two, tiny = (tf.cast(x, slot.variable.dtype) for x in _BETAS)
        count = tf.cast(self._count, slot.variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=slot.variable.handle,
            m=slot.first.handle,
            v=slot.second.handle,
            beta1_power=one**count,
            beta2_power=two**count,
            lr=rate,
            beta1=one,
            beta2=two,
            epsilon=tiny,
            grad=gradient,
        )

    def _shrink(self, one: Latent, constraint: Constraint, rate: Any) -> None:
        """Decay, and the proximal steps that bring weights to zero exactly.

        Parikh and Boyd 2014, section 6.5: soft thresholds for l1, whole groups for the lasso.
        """
        tf = self._tf
        if one.weights is None:
            return
        weights = one.weights.read_value()
        rate = tf.cast(rate, weights.dtype)
        changed = False
        if constraint.decay and self._plan.optimizer == "adamw" and self._plan.weight_decay:
            weights -= rate * tf.cast(self._plan.weight_decay, weights.dtype) * weights
            changed = True
        if constraint.l1:
            limit = rate * tf.cast(constraint.l1, weights.dtype)
            weights = tf.sign(weights) * tf.maximum(tf.abs(weights) - limit, 0)
            changed = True
        if constraint.group_lasso:
            rank = weights.shape.rank
            axes = [axis for axis in range(rank) if axis != constraint.axis % max(1, rank)]
            count = float(np.prod([weights.shape[axis] for axis in axes]))
            norm = tf.sqrt(tf.reduce_sum(tf.square(weights), axis=axes, keepdims=True))
            limit = rate * tf.cast(constraint.group_lasso * np.sqrt(count), weights.dtype)
            weights *= tf.maximum(1 - limit / tf.maximum(norm, 1e-30), 0)
            changed = True
        if changed:
            one.weights.assign(weights)

    def _shrink_together(self, group: Coupled, rate: Any) -> None:
        """The proximal step of a group lasso over the tensors that share some channels."""
        tf = self._tf
        latents = dict(zip(self._names, self._latents, strict=True))
        squares, parts = tf.zeros(group.channels), []
        count = 0.0
        for name, axis, channels in group.parts:
            weights = latents[name].weights if name in latents else None
            if weights is None:
                continue
            others = [n for n in range(weights.shape.rank) if n != axis]
            each = tf.reduce_sum(tf.square(tf.cast(weights, tf.float32)), axis=others)
            # Those of other groups have a sum of their own, which nobody reads.
            places = np.where(channels < 0, group.channels, channels)
            squares += tf.math.unsorted_segment_sum(each, places, group.channels + 1)[:-1]
            own = np.count_nonzero(channels >= 0) / group.channels
            count += own * float(np.prod([weights.shape[n] for n in others]))
            shape = [-1 if n == axis else 1 for n in range(weights.shape.rank)]
            parts.append((weights, places, shape))
        limit = rate * group.strength * np.sqrt(count)
        factors = tf.maximum(1 - limit / tf.maximum(tf.sqrt(squares), 1e-30), 0)
        factors = tf.concat([factors, [1.0]], axis=0)
        for weights, places, shape in parts:
            factor = tf.reshape(tf.gather(factors, places), shape)
            weights.assign(weights * tf.cast(factor, weights.dtype))

    def latent(self, names: Any) -> dict[str, np.ndarray]:
        found = dict(zip(self._names, self._latents, strict=True))
        return {
            name: (
                found[name].value() if found[name].weights is None else found[name].weights
            ).numpy()
            for name in names
        }

    def saliency(self, names: Any) -> dict[str, np.ndarray]:
        moved = {name: score.numpy() for name, score in self._moved.items() if name in names}
        rest = self.latent([name for name in names if name not in moved])
        return moved | {name: np.abs(weights) for name, weights in rest.items()}

    def mask(self, masks: Any) -> None:
        found = dict(zip(self._names, self._latents, strict=True))
        # The chief's: on machines that round otherwise, two weights may change their order.
        agreed = self._team.from_chief(list(masks.values()))
        for name, kept in zip(masks, agreed, strict=True):
            one = found[name]
            assert isinstance(one, Masked)
            assert not isinstance(one.inner, Shared) or (one.mask.numpy() >= kept).all()
            one.keep(kept)

    def settle(self) -> None:
        with quiet():
            self._project()

    def _state(self) -> list[Any]:
        """Variables that the outputs depend on; the prices decide the nearest centroid."""
        own = [v for one in self._latents for v in _variables_of(one)]
        return [*own, *self._moved.values(), *self._moving.values(), *self._ranges()]

    def _ranges(self) -> list[Any]:
        return [self._integers.low, self._integers.high] if self._integers else []

    def save(self) -> None:
        self._kept = [variable.numpy() for variable in self._state()]

    def restore(self) -> None:
        if self._kept is not None:
            for variable, values in zip(self._state(), self._kept, strict=True):
                variable.assign(values)
        self.settle()

    def _whole(self) -> dict[str, Any]:
        """Every variable that a later step depends on, by name."""
        found: dict[str, Any] = {"count": self._count}
        for name, one, slots in zip(self._names, self._latents, self._slots, strict=True):
            parts = _variables_of(one)
            parts += [v for slot in slots for v in (slot.first, slot.second) if v is not None]
            if name in self._moved:
                parts.append(self._moved[name])
            found.update({f"{name}:{number}": part for number, part in enumerate(parts)})
        found.update({f"range:{number}": part for number, part in enumerate(self._ranges())})
        found.update({f"{name}:moving": variable for name, variable in self._moving.items()})
        known = {id(v) for v in self._running.variables.values()}
        noise = [v for v in self._running.model.variables if id(v) not in known]
        found.update({f"noise:{number}": v for number, v in enumerate(noise)})
        return found

    def state(self) -> dict[str, np.ndarray]:
        found = {name: np.asarray(variable) for name, variable in self._whole().items()}
        kept = self._kept or []
        return {**found, **{f"kept:{number}": part for number, part in enumerate(kept)}}

    def load(self, state: Any) -> None:
        whole = self._whole()
        kept = {f"kept:{number}": variable for number, variable in enumerate(self._state())}
        if kept.keys().isdisjoint(state):  # no epoch was judged so far
            kept = {}
        for name, variable in {**whole, **kept}.items():
            here, found = np.asarray(variable), state.get(name)
            if found is None or (found.shape, found.dtype) != (here.shape, here.dtype):
                raise InputError(f"{name} is not as it is here")
        for name, variable in whole.items():
            variable.assign(state[name])
        self._kept = [state[name] for name in kept] or None

    def ranges(self) -> dict[str, tuple[float, float]]:
        return self._integers.ranges() if self._integers else {}

    def result(self) -> dict[str, tuple[np.ndarray, Encoding | None]]:
        self.settle()
        found: dict[str, tuple[np.ndarray, Encoding | None]] = {
            name: one.finish() for name, one in zip(self._names, self._latents, strict=True)
        }
        for name, variable in self._moving.items():
            values = variable.numpy()
            if not np.array_equal(values, self._at_start[name], equal_nan=values.dtype.kind == "f"):
                found[name] = (values, None)
        return found


class _Slot:
    """A variable with the optimizer's memory of it."""

    def __init__(self, tf: Any, variable: Any, optimizer: str) -> None:
        self.variable = variable
        self.first = tf.Variable(tf.zeros_like(variable), trainable=False)
        self.second: Any = None
        if optimizer != "sgd":
            self.second = tf.Variable(tf.zeros_like(variable), trainable=False)


def _variables_of(one: Any) -> list[Any]:
    """All variables of a latent form, those of what is inside it too, each once."""
    import tensorflow as tf

    found: dict[int, Any] = {}
    for part in vars(one).values():
        if isinstance(part, tf.Variable):
            found[id(part)] = part
        elif hasattr(part, "gradients"):
            found.update({id(v): v for v in _variables_of(part)})
    return list(found.values())


def _with_loss(goal: Goal, loss: str) -> Goal:
    """The goal with another loss.

    Raises:
        InputError: it makes no sense for this output.
    """
    if not loss:
        return goal
    if loss == "cross_entropy" and goal.task == "regression":
        raise InputError(
            "loss: cross_entropy needs a classifier output", "say task: multiclass or binary"
        )
    return Goal(goal.task, goal.units, loss, goal.probabilities)
