"""Joins a model, an engine and the training CSV for the steps that need the network running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from modelcut import engines
from modelcut.data import DataOptions
from modelcut.data.csv import Batch, Csv
from modelcut.data.rows import Part, Rows
from modelcut.data.store import RowStore
from modelcut.engines.keras.running import Goal, KerasRunning, Place, start
from modelcut.engines.keras.team import Team
from modelcut.errors import InputError
from modelcut.formats import base, registry
from modelcut.graph import scan
from modelcut.job import inference
from modelcut.job.loss import error_in, loss_of
from modelcut.metrics import accumulators
from modelcut.model import cost
from modelcut.model.model import Model, Tensor
from modelcut.runtime import Running

_BATCH = 1024


class EngineRuntime:
    """See `runtime.Runtime`."""

    def __init__(
        self,
        original: Model,
        train: Path | None,
        options: DataOptions,
        *,
        validate: Path | None = None,
        task: str | None = None,
        seed: int = 0,
        trust: bool = False,
        custom_objects: Mapping[str, Any] | None = None,
        team: Team | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            original: the model as it was read, before any step.
            train: the CSV; None: there are rows for validation only.
            options: how it is read.
            validate: a CSV of its own for validation; None: a share of `train` is set aside.
            task: of the outputs; None: inferred.
            seed: of everything random in the engine, and of the rows set aside.
            trust: let code in the file run.
            custom_objects: the user's own layers and functions, by name.
            team: who trains together; None: this process alone.
        """
        self.original = original
        self._train = train
        self._validate = validate
        self._options = options
        self._task = task
        self._seed = seed
        self._trust = trust
        self._custom = dict(custom_objects or {})
        self._team = team or Team()
        self._stores: dict[Any, RowStore] = {}
        self._notes: dict[str, None] = {}

    def open(self, model: Model) -> Running:
        check_runnable(model, trust=self._trust, custom=bool(self._custom))
        where = str(model.origin.path)
        options = base.WriteOptions(compression="none")
        with registry.scratch_file(model, options) as (path, writer), self._team.scope():
            network = engines.open_network(
                path,
                model.origin.dialect,
                suffix=registry.engine_suffix(writer),
                loss=loss_of(model),
                trust=self._trust,
                custom_objects=self._custom,
                seed=self._seed,
                name=where,
                hint="a step that trains needs the network to run",
            )
        places = [
            Place(layer.path, tuple((t.name, partial(_values, t)) for t in layer.tensors))
            for layer in model.layers
        ]
        table = self._table(self._source("all"), network)
        return start(network, places, self._goals(network, table), where, self._team)

    @property
    def notes(self) -> list[str]:
        """What the user should know of how the rows are read, each once."""
        return list(self._notes)

    def _table(self, path: Path, network: engines.Network) -> Csv:
        table = Csv.open(path, self._options, network.inputs)
        self._notes.update(dict.fromkeys(table.warnings))
        return table

    @property
    def workers(self) -> int:
        return self._team.workers

    def agreed(self, numbers: Sequence[float]) -> list[float]:
        return self._team.agreed(numbers)

    def _goals(self, network: engines.Network, table: Csv) -> list[Goal]:
        """What each output is for, as evaluation would judge it."""
        if table.labels:
            found = [(o.task, o.units) for o in inference.deal_labels(network, table, self._task)]
        else:
            found = []
            for spec in network.outputs:
                units = next((n for n in spec.shape if n not in (1, None)), 1) or 1
                guess = accumulators.infer_task(units, spec.activation, network.loss, 0)
                found.append((self._task or guess, units))
        goals = []
        for (task, units), spec in zip(found, network.outputs, strict=True):
            loss = "cross_entropy" if task != "regression" else error_in(network.loss)
            probabilities = spec.activation in ("softmax", "sigmoid", "hard_sigmoid")
            goals.append(Goal(task, units, loss, probabilities))
        return goals

    def rows(
        self,
        running: Running,
        size: int,
        *,
        part: Part = "all",
        share: float = 0.1,
        shuffle: int = -1,
    ) -> Iterator[Rows]:
        assert isinstance(running, KerasRunning)
        store = self._store(running, self._source(part))
        if self._validate is not None:
            part = "all"  # no rows of --train are set aside, and all of --validate are used
        return store.batches(size, part=part, share=share, shuffle=shuffle)

    def _source(self, part: Part) -> Path:
        """The CSV that has the rows of a part."""
        path = self._train or self._validate
        if part == "validation" and self._validate is not None:
            path = self._validate
        assert path is not None
        return path

    def _store(self, running: KerasRunning, path: Path) -> RowStore:
        key = (path, running.network.inputs, running.goals)
        if key not in self._stores:
            network = running.network
            table = self._table(path, network)
            outputs = inference.deal_labels(network, table, self._task) if table.labels else []

            def decode(batch: Batch) -> Rows:
                inputs = tuple(batch.inputs[spec.name] for spec in network.inputs)
                if batch.labels is None:
                    return Rows(inputs, None)
                labels = []
                for output in outputs:
                    part, where = batch.labels[:, output.columns], str(path)
                    classes = self._options.classes
                    labels.append(
                        accumulators.labels_for(output.task, output.units, part, classes, where)
                    )
                return Rows(inputs, tuple(labels))

            self._stores[key] = RowStore(table, decode, seed=self._seed)
        return self._stores[key]

    def accumulator(self, running: Running) -> accumulators.Accumulator:
        assert isinstance(running, KerasRunning)
        goal = running.goals[0]
        return accumulators.accumulator(goal.task, goal.units, self._options.classes)

    def judge(self, running: Running, *, part: Part = "all", share: float = 0.1) -> dict[str, Any]:
        assert isinstance(running, KerasRunning)
        sums = self.accumulator(running)
        for rows in self.rows(
            running, running.network.fixed_batch or _BATCH, part=part, share=share
        ):
            if rows.labels is None:
                raise InputError(f"{self._source(part)}: has no labels", "name the column: --label")
            sums.update(rows.labels[0], running.predict(rows)[0].reshape(len(rows), -1))
        return sums.result()


def _values(tensor: Tensor) -> np.ndarray:
    return tensor.pull()[0]


def check_runnable(
    model: Model, *, trust: bool, custom: bool, otherwise: str = "give the whole model"
) -> None:
    """Refuses what an engine must not be started on.

    Raises:
        InputError: there is no network in the file.
        UnsafeError: it carries code, and is not trusted.
    """
    if model.origin.format == "saved_model":
        name = model.origin.path.name
        known = f"`modelcut pack {name} -o x.mcut` and `modelcut unpack x.mcut -o x.h5` make one"
        raise InputError(
            f"{model.origin.path}: a SavedModel runs as a finished graph, whose weights can be "
            "neither trained nor tried out",
            "give the .h5 or .keras that it was made from"
            + (f"; {known}" if model.architecture is not None else ""),
        )
    if model.architecture is None:
        raise InputError(
            f"{model.origin.path}: holds weights only, no network that could be run", otherwise
        )
    scan.check_runnable(
        model.architecture.text,
        model.origin.training,
        where=str(model.origin.path),
        trust=trust,
        custom=custom,
    )
    cost.check_sizes(model)
