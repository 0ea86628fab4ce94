"""How much memory and time a job may take, told to whoever watches its process.

An engine is C++: no `except` ends a graph that grows without end, and no handler of signals runs
meanwhile. So networks run in a process of their own, which is killed where it takes more
(`engines.process.host`). And the command line works in a child process, which tells its parent over
a pipe how much the model may take; the parent looks, and kills it for good where it takes more
(`cli.process`).
"""

from __future__ import annotations

import contextlib
import math
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelcut import safety
from modelcut.engines import Bounds
from modelcut.errors import InputError, UsageError
from modelcut.job.watched import tell, within
from modelcut.model import cost
from modelcut.model.model import Model

_GIB = 1 << 30
_BASE = 3 * _GIB
"""Python, TensorFlow, a Keras and blocks of the CSV take about 1 GiB of it."""

_COPIES = 16
"""Of the weights: as read, in the engine, gradients, an optimizer's two, a teacher."""

_PER_CALL = 1 << 20
"""Bytes that the call of one layer takes in Keras's and TensorFlow's graphs."""

_LOAD = 120.0
_PER_CALL_SECONDS = 0.05
_BYTES_PER_SECOND = 10e6
_BATCH_SECONDS = 120.0
_MACS_PER_SECOND = 1e8

_limit: int | None = None
_derived = True
_bounds: weakref.WeakKeyDictionary[Any, tuple[int, float]] = weakref.WeakKeyDictionary()
"""Of the networks that are loaded: rows of a batch, and seconds of CPU that it may take."""


def bytes_of(text: str) -> int:
    """`8GB`, `500 MiB`, `1e9` as bytes; the units are powers of 1024.

    Raises:
        UsageError: it is no such size.
    """
    plain = text.strip().lower().removesuffix("b").removesuffix("i")
    unit = "kmgt".find(plain[-1:]) + 1 if plain else 0
    try:
        size = float(plain[:-1] if unit else plain) * 1024**unit
    except ValueError:
        size = math.nan
    if not (1 << 20) <= size < 1 << 60:
        raise UsageError(f"--max-memory: {text!r} is no size", "such as 8GB or 500MB")
    return int(size)


@contextlib.contextmanager
def at_most(size: str | int | None, *, derived: bool = True) -> Iterator[None]:
    """Sets the most memory of what is done meanwhile.

    Args:
        size: in bytes or as text; None: what is derived from each model that is run.
        derived: False: there is no such limit where `size` is None, since many run at a time.

    Raises:
        UsageError: it is no size.
    """
    global _limit, _derived
    before = _limit, _derived
    _derived = derived
    _limit = bytes_of(size) if isinstance(size, str) else size
    try:
        safety.allow(_limit)
        if _limit is not None:
            tell(memory=_limit)
        yield
    finally:
        _limit, _derived = before
        safety.allow(_limit)


def machine_memory() -> int:
    """Bytes of memory that this process can have: of the machine, or of its container."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            most = min(most, int(Path(place).read_text(encoding="ascii")))
    return most


def available() -> int:
    """Bytes that a job may take: `--max-memory`, or nine tenths of what there is."""
    return _limit if _limit is not None else machine_memory() * 9 // 10


def check_engine(model: Model) -> None:
    """Refuses a network that no engine can hold, and allows one what it may need.

    Raises:
        InputError: one sample takes more memory than there is, or layers are called too often.
    """
    cost.check_sizes(model)
    largest = 4 * cost.largest_output(model)
    weights = sum(4 * math.prod(tensor.shape) for tensor in model.tensors)
    if largest + weights > available():
        raise InputError(
            f"{model.origin.path}: one sample takes {(largest + weights) / 1e9:.3g} GB, and there "
            f"are {available() / 1e9:.3g}",
            "--max-memory says how much a job may take",
        )
    if _limit is None and _derived:
        tell(memory=min(available(), needed(model)))


def needed(model: Model) -> int:
    """Bytes that an engine may take for a model: far more than one takes, far less than a bomb.

    Without an architecture nothing can be derived: all that there is.
    """
    if model.architecture is None:
        return available()
    weights = sum(4 * math.prod(tensor.shape) for tensor in model.tensors)
    outputs = 4 * cost.all_outputs(model) * 2 * _rows(model)
    return _BASE + _COPIES * weights + outputs + _PER_CALL * cost.calls_of_layers(model)


def bounds(model: Model) -> Bounds:
    """What an engine's own process may take for a model."""
    weights = sum(4 * math.prod(tensor.shape) for tensor in model.tensors)
    macs = sum(count or 0 for count in cost.macs(model).values())
    tracing = _PER_CALL_SECONDS * cost.calls_of_layers(model)
    free = _limit is None and not _derived
    return Bounds(
        load_seconds=_LOAD + weights / _BYTES_PER_SECOND + tracing,
        batch_seconds=_BATCH_SECONDS + tracing + _rows(model) * macs / _MACS_PER_SECOND,
        memory=0 if free else min(available(), needed(model)),
        most=0 if free else available(),
    )


@contextlib.contextmanager
def loading(model: Model) -> Iterator[None]:
    """Bounds the CPU time until a network is loaded into this process."""
    with within(bounds(model).load_seconds, "loading the network"):
        yield


def bound(network: Any, model: Model, *, apart: bool) -> None:
    """Says of a loaded network how many rows it may be given at a time, and how long they take.

    Args:
        network: the network.
        model: the model as it was read.
        apart: it runs in a process of its own, which is told by itself how long.
    """
    _bounds[network] = _rows(model), 0 if apart else bounds(model).batch_seconds


def rows_within(network: Any, most: int) -> int:
    """Rows that a network may be given at a time."""
    return min(most, _bounds.get(network, (most, 0))[0])


@contextlib.contextmanager
def running(network: Any) -> Iterator[None]:
    """Bounds the CPU time of one batch, and of a trace of the graph with it."""
    with within(_bounds.get(network, (0, 0))[1], "running the network"):
        yield


def _rows(model: Model, most: int = 1024) -> int:
    """Rows of a batch whose largest output of a layer takes an eighth of the memory at most."""
    largest = 4 * cost.largest_output(model)
    return max(1, min(most, available() // (8 * max(1, largest))))
