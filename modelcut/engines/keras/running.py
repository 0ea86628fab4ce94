"""A loaded Keras model that gives its loss, gradients and layer inputs; see `runtime.Running`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from modelcut.data.rows import Rows, with_labels
from modelcut.engines import Network, quiet
from modelcut.engines.keras import losses
from modelcut.engines.keras import variables as keras_variables
from modelcut.engines.keras.losses import Goal
from modelcut.engines.keras.network import KerasNetwork, stateful_layers
from modelcut.engines.keras.resumed import Batch, Memo
from modelcut.engines.keras.team import Team
from modelcut.engines.keras.tf_errors import translated, value_of
from modelcut.engines.keras.trainer import KerasTrainer
from modelcut.engines.keras.variables import Place
from modelcut.runtime import TrainingPlan

__all__ = ["Goal", "KerasRunning", "Place", "start"]


def start(
    network: Network,
    places: Sequence[Place],
    goals: Sequence[Goal],
    where: str,
    team: Team | None = None,
) -> KerasRunning:
    """Makes a loaded network trainable.

    Args:
        network: the network, as `engines.open_network` returns it.
        places: the layers and their tensors.
        goals: task and loss of each output.
        where: name of the file in messages.
        team: the processes in whose scope the network was loaded; None: this process only.

    Raises:
        InputError: a tensor cannot be found again among the engine's variables.
    """
    assert isinstance(network, KerasNetwork)
    return KerasRunning(network, places, goals, where, team or Team())


class KerasRunning:
    """See `runtime.Running`."""

    def __init__(
        self,
        network: KerasNetwork,
        places: Sequence[Place],
        goals: Sequence[Goal],
        where: str,
        team: Team,
    ) -> None:
        import tensorflow as tf

        self.network = network
        self.team = team
        self.engine = network.engine
        self.goals = tuple(goals)
        self.model = network.model
        self.variables = keras_variables.find(self.model, places, where)
        trained = {id(v) for v in self.model.trainable_weights}
        self.trainable = frozenset(n for n, v in self.variables.items() if id(v) in trained)
        self._paths = {"/".join(place.path): place.path for place in places}
        self._tf = tf
        self._functions: dict[Any, Callable[..., Any]] = {}
        self._calls: dict[str, int] = {}
        self._memo: Memo | None = Memo()
        fixed = network.fixed_batch
        self.batches = f"the network takes batches of {fixed} rows" if fixed else ""

    @property
    def independent(self) -> bool:
        """Whether what it gives for a sample does not depend on the batch that the sample is in."""
        return self.network.fixed_batch is None and not stateful_layers(self.network)

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: np.array(self.variables[name]) for name in names}

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        for name, array in values.items():
            self.variables[name].assign(array)
        if self._memo:
            self._memo.changed(values, self._paths)

    def predict(self, rows: Rows) -> list[np.ndarray]:
        names = [spec.name for spec in self.network.inputs]
        with quiet():
            return self.network.predict(dict(zip(names, rows.inputs, strict=True)))

    def teach(self, rows: Rows) -> list[np.ndarray]:
        call = self._function(("teach",), partial(self.shown, self.goals))
        return [np.asarray(part) for part in self._run(call, self.tensors(rows))]

    def shown(self, goals: Sequence[Goal], inputs: Sequence[Any]) -> list[Any]:
        """What a student of this network is held against, in TensorFlow's tensors."""
        outputs = self.forward(inputs, training=False)
        return [losses.shown(*part) for part in zip(goals, outputs, strict=True)]

    def loss(self, rows: Rows) -> float:
        call = self._function(("loss",), self._loss)
        return float(self._run(call, self.tensors(rows), self.labels(rows)))

    def gradients(self, rows: Rows, names: Sequence[str]) -> dict[str, np.ndarray]:
        tf = self._tf
        variables = [value_of(self.variables[name]) for name in names]

        def compute(inputs: list[Any], labels: list[Any]) -> list[Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(variables)
                total = self._loss(inputs, labels)
            found = tape.gradient(total, variables, unconnected_gradients="zero")
            return [tf.convert_to_tensor(part) for part in found]

        call = self._function(("gradients", *names), compute)
        found = self._run(call, self.tensors(rows), self.labels(rows))
        return {name: np.asarray(part) for name, part in zip(names, found, strict=True)}

    def layer_inputs(
        self, rows: Rows, layers: Sequence[str], *, again: bool = False
    ) -> dict[str, list[np.ndarray]]:
        left = {name: self._calls_of(name, rows) for name in layers}
        seen: dict[str, list[Any]] = {name: [] for name in layers}

        def take(name: str, given: Any) -> None:
            if name in left:
                first = given[0] if isinstance(given, (list, tuple)) else given
                seen[name].append(np.asarray(first))
                left[name] -= 1
                if not any(left.values()):
                    raise _EnoughError

        batch = self._memo.batch(rows, self.tensors) if again and self._memo else None
        tensors = self.tensors(rows) if batch is None else batch.tensors
        # Without a graph: tracing the network for each layer that is asked about takes longer than
        # running it on the few samples that there are, and it can end at the last of the layers.
        with contextlib.ExitStack() as stack:
            for name in self._paths if batch is not None else layers:
                layer = keras_variables.layer_at(self.model, self._paths[name])
                if layer is not None:
                    stack.enter_context(_watched(layer, name, take, batch))
            with contextlib.suppress(_EnoughError), translated(self.batches), quiet():
                self.forward(tensors, training=False)
        return seen

    def _calls_of(self, name: str, rows: Rows) -> int:
        """How often the network calls a layer."""
        if not self._calls:
            calls = self._calls
            with contextlib.ExitStack() as stack:
                for each, path in self._paths.items():
                    layer = keras_variables.layer_at(self.model, path)
                    calls[each] = 0
                    if layer is not None:
                        stack.enter_context(_watched(layer, each, partial(_counted, calls), None))
                one = rows if self.network.fixed_batch else rows[:1]
                with translated(self.batches), quiet():
                    self.forward(self.tensors(one), training=False)
        return self._calls[name]

    def trainer(self, plan: TrainingPlan) -> KerasTrainer:
        self._memo = None  # what trains replaces weights on its own
        if self.team.replicas > 1:
            keras_variables.synchronize(self.model)
        with self.team.scope(), quiet():
            return KerasTrainer(self, plan)

    def forward(self, inputs: Sequence[Any], *, training: bool) -> list[Any]:
        """The outputs, each flat: (rows, units)."""
        outputs = self.network.forward(inputs, training=training)
        return [losses.flat(o, goal.units) for o, goal in zip(outputs, self.goals, strict=True)]

    def tensors(self, rows: Rows) -> list[Any]:
        """The inputs as TensorFlow takes them."""
        return [self._tf.convert_to_tensor(part) for part in rows.inputs]

    def labels(self, rows: Rows) -> list[Any]:
        """The labels as the losses take them.

        Raises:
            UsageError: there are none.
        """
        labels = with_labels(rows.labels, "the training data")
        arrays = losses.as_tensors(self.goals, labels)
        return [self._tf.convert_to_tensor(part) for part in arrays]

    def _loss(self, inputs: list[Any], labels: list[Any]) -> Any:
        outputs = self.forward(inputs, training=False)
        parts = zip(self.goals, labels, outputs, strict=True)
        return self._tf.add_n([self._tf.reduce_mean(losses.loss(*part)) for part in parts])

    def _function(self, key: Any, body: Callable[..., Any]) -> Callable[..., Any]:
        if key not in self._functions:
            self._functions[key] = self._tf.function(body, reduce_retracing=True)
        return self._functions[key]

    def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        with translated(self.batches), quiet():
            return call(*arguments)


class _EnoughError(BaseException):
    """All that was asked for has been seen; not an `Exception`, which Keras would dress up."""


def _counted(calls: dict[str, int], name: str, given: Any) -> None:
    del given
    calls[name] += 1


@contextlib.contextmanager
def _watched(
    layer: Any, name: str, see: Callable[[str, Any], None], batch: Batch | None
) -> Iterator[None]:
    """Shows what goes into a layer; it is called where the batch does not know the result."""
    own = "call" in vars(layer)
    call = layer.call

    @functools.wraps(call)
    def watching(inputs: Any, *arguments: Any, **more: Any) -> Any:
        see(name, inputs)
        others = [more[key] for key in more if key != "training"]
        if batch is None or any(each is not None for each in (*arguments, *others)):
            return call(inputs, *arguments, **more)
        found, known = batch.known(name, inputs)
        if not known:
            found = call(inputs, **more)
            batch.keep(name, inputs, found)
        return found

    object.__setattr__(layer, "call", watching)
    try:
        yield
    finally:
        if own:
            object.__setattr__(layer, "call", call)
        else:
            object.__delattr__(layer, "call")
