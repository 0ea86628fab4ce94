"""Finds what is wrong with samples before an engine starts, which takes seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.data import DataOptions, InputSpec
from modelcut.data.sources import open_table
from modelcut.data.table import Table
from modelcut.engines import OutputSpec
from modelcut.graph.keras.calls import is_functional
from modelcut.graph.keras.final import final_layer
from modelcut.job.loss import loss_of
from modelcut.job.targets import Wanted, plan
from modelcut.metrics.scores import Target
from modelcut.model.model import Model

_SECONDS = 1.0
"""So much time is spent on rows; an error beyond is found when the network is at them."""


@dataclass(frozen=True)
class Declared:
    """A network as far as the architecture describes it.

    Attributes:
        inputs, outputs: as an engine will have them.
        loss: the loss that it was compiled with, as in the file's configuration.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    loss: Any


def check_data(
    model: Model,
    path: Path,
    options: DataOptions,
    wanted: Wanted,
    *,
    labelled: bool = True,
    seconds: float = _SECONDS,
) -> int | None:
    """Holds samples against the inputs and the output that the architecture declares.

    Args:
        model: the model that will be run; where its architecture leaves open what goes in or comes
            out, the engine has to tell.
        path: the samples.
        options: how they are read.
        wanted: what the user says of the outputs.
        labelled: whether their labels will be read.
        seconds: how long samples are read.

    Returns:
        Number of samples; None where there was no time to read all of them, or where an engine has
        to tell what goes in.

    Raises:
        InputError: not a CSV, one that does not fit the model, a bad row or a label that no class
            goes with.
        UsageError: an option names a column or an input that is not there.
    """
    found = declared_table(model, path, options, wanted, labelled=labelled)
    if found is None:
        return None
    table, targets = found
    rows, end = 0, time.monotonic() + seconds
    for batch in table.batches(1024):
        rows += len(batch)
        if batch.labels is not None:
            for target in targets:
                target.labels(batch.labels, str(path))
        if time.monotonic() > end:
            return None
    return rows


def declared_table(
    model: Model, path: Path, options: DataOptions, wanted: Wanted, *, labelled: bool = True
) -> tuple[Table, tuple[Target, ...]] | None:
    """Samples, bound to the inputs that the architecture declares; see `check_data`.

    Returns:
        The samples, and what their labels are for as far as the architecture tells; None where
        an engine has to tell what goes in.
    """
    inputs = declared_inputs(model, options)
    if not inputs:
        return None
    table = open_table(path, options, inputs, labelled=labelled)
    return table, _targets(model, inputs, table, wanted)


def _targets(
    model: Model, inputs: list[InputSpec], table: Table, wanted: Wanted
) -> tuple[Target, ...]:
    """What the labels are for, where there is one output and the architecture tells all of it."""
    architecture, options = model.architecture, table.options
    if architecture is None or not table.labels or table.reconstructs:
        return ()
    said = (options.label, options.classes, wanted.task, wanted.from_logits)
    if any(isinstance(each, Mapping) for each in said):  # the engine knows the output's names
        return ()
    found = final_layer(architecture.root)
    shape = architecture.shapes().get((found[0],)) if found else None
    if found is None or shape is None or None in shape:
        return ()
    outputs = (OutputSpec(found[0], shape, found[1]),)
    network = Declared(tuple(inputs), outputs, loss_of(model))
    return plan(network, table, options, wanted).outputs


def declared_inputs(model: Model, options: DataOptions) -> list[InputSpec]:
    """The inputs as an engine will have them; [] where the architecture leaves that open."""
    architecture = model.architecture
    if architecture is None or (options.inputs and not is_functional(architecture.root)):
        return []  # an engine names the input of a Sequential
    found = []
    for name, shape, dtype in architecture.inputs():
        if shape is None or not _is_dtype(dtype):
            return []
        found.append(InputSpec(name, shape, dtype))
    return found


def _is_dtype(name: str) -> bool:
    if name in ("string", "bfloat16"):
        return True
    try:
        return np.dtype(name).kind in "iufb"
    except TypeError:
        return False
