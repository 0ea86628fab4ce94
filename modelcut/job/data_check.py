"""Finds what is wrong with samples before an engine starts, which takes seconds."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from modelcut.data import DataOptions, InputSpec
from modelcut.data.sources import open_table
from modelcut.graph.keras.calls import is_functional
from modelcut.model.model import Model

_SECONDS = 1.0
"""So much time is spent on rows; an error beyond is found when the network is at them."""


def check_data(model: Model, path: Path, options: DataOptions) -> None:
    """Holds samples against the inputs that the architecture declares, where it says them.

    Raises:
        InputError: not a CSV, one that does not fit the model, or a bad row.
        UsageError: an option names a column or an input that is not there.
    """
    inputs = declared_inputs(model, options)
    if not inputs:
        return
    end = time.monotonic() + _SECONDS
    for _ in open_table(path, options, inputs).batches(1024):
        if time.monotonic() > end:
            return


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
