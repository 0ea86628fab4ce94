"""Joins a model, an engine and the training CSV for the steps that need the network running."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from modelcut import engines
from modelcut.data import DataOptions
from modelcut.data.rows import Part, Rows, with_labels
from modelcut.data.sources import open_table
from modelcut.data.store import RowStore
from modelcut.data.table import Batch, Table
from modelcut.engines import Network
from modelcut.engines.keras.running import Goal, KerasRunning, Place, start
from modelcut.engines.keras.team import Team
from modelcut.errors import InputError, UsageError
from modelcut.formats import base, registry
from modelcut.job import limits, targets
from modelcut.job.check import check_trainable
from modelcut.job.loss import error_in, loss_of
from modelcut.job.request import Say
from modelcut.job.targets import Wanted
from modelcut.metrics import task as tasks
from modelcut.metrics.accumulators import Values
from modelcut.metrics.scores import Scores, Target
from modelcut.model.model import Model, Tensor
from modelcut.runtime import Running

_BATCH = 1024
_WARM = 3
"""Runs before a latency is measured."""


class EngineRuntime:
    """See `runtime.Runtime`."""

    def __init__(
        self,
        original: Model,
        train: Path | None,
        options: DataOptions,
        *,
        validate: Path | None = None,
        calibrate: Path | None = None,
        wanted: Wanted | None = None,
        seed: int = 0,
        trust: bool = False,
        custom_objects: Mapping[str, Any] | None = None,
        custom_module: str = "",
        team: Team | None = None,
        say: Say = lambda _: None,
    ) -> None:
        """Starts nothing yet.

        Args:
            original: the model as it was read, before any step.
            train: CSV of training data; None: there is validation data only.
            options: how the CSV is parsed.
            validate: CSV of validation data; None: a fraction of `train` is set aside.
            calibrate: CSV of calibration data, whose labels are not read; None: `train` is used.
            wanted: task and logits of the outputs, as set by the user.
            seed: seed of the engine's random generators and of the choice of samples set aside.
            trust: whether code in the file may run.
            custom_objects: the user's own layers and functions, by name.
            custom_module: the module that they are from, for another process.
            team: the processes that train together; None: this process alone.
            say: takes a line about progress: the first network waits for its engine.
        """
        self.original = original
        self._train = train
        self._validate = validate
        self._calibrate = calibrate
        self._options = options
        self._wanted = wanted or Wanted()
        self._seed = seed
        self._trust = trust
        self._custom = dict(custom_objects or {})
        self._custom_module = custom_module
        self._team = team or Team()
        self._stores: dict[Any, RowStore] = {}
        self._targets: tuple[Target, ...] = ()
        self._notes: dict[str, None] = {}
        self._say: Say | None = say
        self._teacher: Running | None = None

    def open(self, model: Model) -> Running:
        check_trainable(model, trust=self._trust, custom=engines.names_of(self._custom))
        where = str(model.origin.path)
        if model.origin.configuration:
            raise InputError(
                f"{where}: the model is subclassed; modelcut cannot train it",
                "build it with keras.Model(inputs, outputs), or leave out the steps that train",
            )
        say, self._say = self._say, None
        if say:
            say(f"starting {engines.name_of(model.origin.dialect)}")
        options = base.WriteOptions(compression="none")
        with (
            registry.scratch_file(model, options) as (path, writer),
            self._team.scope(),
            limits.loading(model),
        ):
            network = engines.open_network(
                path,
                model.origin.dialect,
                suffix=writer.engine_suffix,
                loss=loss_of(model),
                trust=self._trust,
                custom_objects=self._custom,
                seed=self._seed,
                name=where,
                hint="a step that trains needs the network to run",
                apart=False,
            )
        if say:
            say("running the network")
        places = [
            Place(layer.path, tuple((t.name, partial(_values, t)) for t in layer.tensors))
            for layer in model.layers
        ]
        self._decide(network, where)
        return start(network, places, self._goals(network), where, self._team)

    @contextlib.contextmanager
    def timer(self, model: Model, engine: str) -> Iterator[Callable[[], float]]:
        running = self.open(model)
        sample = next(iter(self.rows(running, 1)))
        assert isinstance(running, KerasRunning)
        inputs = [spec.name for spec in running.network.inputs]
        given = dict(zip(inputs, sample.inputs, strict=True))
        with contextlib.ExitStack() as stack:
            network: Network = running.network
            if engine == "litert":
                network = stack.enter_context(self._litert(model))
                given = dict(zip((s.name for s in network.inputs), sample.inputs, strict=True))

            def run() -> float:
                start = time.perf_counter()
                network.predict(given, exact=True)
                around = time.perf_counter() - start
                inside: float | None = getattr(network, "seconds", None)
                return around if inside is None else inside

            for _ in range(_WARM):
                run()
            yield run

    @contextlib.contextmanager
    def _litert(self, model: Model) -> Iterator[Network]:
        """A `.tflite` of float32, made for as long as it is needed."""
        from modelcut.engines.litert import network as litert
        from modelcut.formats.litert.tflite import METADATA

        options = base.WriteOptions(compression="none")
        with (
            registry.scratch_file(model, options) as (path, writer),
            tempfile.TemporaryDirectory(prefix="modelcut-") as folder,
        ):
            target = Path(folder) / "model.tflite"
            litert.convert(
                litert.Conversion(
                    source=str(path),
                    shown=str(model.origin.path),
                    dialect=model.origin.dialect,
                    suffix=writer.engine_suffix,
                    target=str(target),
                    metadata=METADATA,
                    trust=self._trust,
                    custom_objects=self._custom_module,
                )
            )
            yield litert.LiteRTNetwork(target)

    @property
    def notes(self) -> list[str]:
        """What the user should know of how the rows are read, each once."""
        return list(self._notes)

    def _table(self, path: Path, network: engines.Network) -> Table:
        labelled = path != self._calibrate or path in (self._train, self._validate)
        table = open_table(path, self._options, network.inputs, labelled=labelled)
        self._notes.update(dict.fromkeys(table.warnings))
        return table

    @property
    def workers(self) -> int:
        return self._team.workers

    def agreed(self, numbers: Sequence[float]) -> list[float]:
        return self._team.agreed(numbers)

    def _decide(self, network: engines.Network, where: str) -> None:
        """Decides once, by the first network that is opened, what the outputs are for."""
        if self._targets:
            return
        path = self._source("all")
        table = self._table(path, network)
        found = targets.plan(network, table, table.options, self._wanted).outputs
        missing = [target.name for target in found if table.labels and not target.places]
        if missing:
            raise UsageError(
                f"{path}: no label for the output {missing[0]!r} of {where}",
                "training and search need one for each output: --label '{output: column}'",
            )
        self._targets = tuple(
            replace(target, task=replace(target.task, logits=self._seen(network, table, index)))
            if target.places and target.task.decides and target.task.logits is None
            else target
            for index, target in enumerate(found)
        )

    def _seen(self, network: engines.Network, table: Table, index: int) -> bool:
        """Whether an output gives logits, where nothing but its values tells."""
        units = next((n for n in network.outputs[index].shape if n not in (1, None)), 1)
        values = Values(sums=units > 1)
        for batch in table.batches(network.fixed_batch or _BATCH):
            inputs = {spec.name: batch.inputs[spec.name] for spec in network.inputs}
            with engines.quiet():
                outputs = network.predict(inputs)
            values.look(outputs[index].reshape(len(batch), -1))
        return values.logits

    def _goals(self, network: engines.Network) -> list[Goal]:
        """What each output is trained for, as evaluation would judge it."""
        losses = tasks.losses(network.loss, [targets.known(spec) for spec in network.outputs])
        goals = []
        for target, spec, loss in zip(self._targets, network.outputs, losses, strict=True):
            task = target.task
            if not target.places:
                # Without labels an output is held against a teacher's, whatever it decides.
                task = tasks.decide(task.units, spec.activation, loss, 0)
                other = "regression" if task.units == 1 else "multiclass"
                task = replace(task, kind=task.kind or other)
            kind = "cross_entropy" if task.decides else error_in(loss.name if loss else None)
            goals.append(Goal(task.kind, task.units, kind, task.logits is False))
        return goals

    @property
    def teacher(self) -> Running:
        if self._teacher is None:
            self._teacher = self.open(self.original)
        return self._teacher

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
        assert isinstance(running, KerasRunning)
        store = self._store(running, self._source(part))
        if part == "calibration":
            part = "train" if share and self._calibrate is None else "all"
        if self._validate is not None:
            part = "all"  # no rows of --train are set aside, and all of --validate are used
        alone = self._team.replicas == 1 and running.independent
        teach = teacher.teach if teacher and alone else None
        return store.batches(size, part=part, share=share, shuffle=shuffle, teach=teach)

    def _source(self, part: Part) -> Path:
        """The CSV that has the rows of a part."""
        path = self._train or self._validate or self._calibrate
        if part == "validation" and self._validate is not None:
            path = self._validate
        if part == "calibration" and self._calibrate is not None:
            path = self._calibrate
        assert path is not None
        return path

    def _store(self, running: KerasRunning, path: Path) -> RowStore:
        key = (path, running.network.inputs, running.goals)
        if key not in self._stores:
            network = running.network
            table = self._table(path, network)
            found = targets.plan(network, table, table.options, self._wanted).outputs

            def decode(batch: Batch) -> Rows:
                inputs = tuple(batch.inputs[spec.name] for spec in network.inputs)
                labels = batch.labels
                if labels is None:
                    return Rows(inputs, None)
                return Rows(inputs, tuple(target.labels(labels, str(path)) for target in found))

            self._stores[key] = RowStore(table, decode, seed=self._seed)
        return self._stores[key]

    def scores(self, running: Running) -> Scores:
        del running
        return Scores(self._targets)

    def judge(self, running: Running, *, part: Part = "all", share: float = 0.1) -> dict[str, Any]:
        assert isinstance(running, KerasRunning)
        scores = self.scores(running)
        for rows in self.rows(
            running, running.network.fixed_batch or _BATCH, part=part, share=share
        ):
            labels = with_labels(rows.labels, self._source(part))
            scores.update(labels, running.predict(rows))
        return scores.result()


def _values(tensor: Tensor) -> np.ndarray:
    return tensor.pull()[0]
