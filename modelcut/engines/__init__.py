"""Engines run a network. The only room that imports TensorFlow, and only when it is called.

`keras3` and `tf_keras` load a file as its own Keras would: which one is chosen by the dialect that
the file is written in. `saved_model` runs a signature of a SavedModel, which needs no Keras, and
`litert` a `.tflite`, `onnx` an `.onnx`. Networks run in a process of their own (`process`), but for
those that are trained.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib.util
import inspect
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modelcut.data import InputSpec
from modelcut.errors import InputError, ModelcutError, ResourceError, UsageError
from modelcut.safety import colourless, printable

_ENGINES = {"keras3": "keras.keras3", "saved_model": "saved_model.signature"}
"""Dialect -> module that loads it into its own process; the others are those of tf_keras."""

_APART = {
    "saved_model": "saved_model.network",
    "litert": "litert.network",
    "onnx": "onnx.network",
}
"""Dialect -> module that loads it into a process of its own; the others are Keras's."""

_ALWAYS_APART = {"litert": "LiteRT", "onnx": "onnxruntime"}
"""Dialect that runs without TensorFlow -> name of its engine."""

_LIBRARIES = {"keras3": "keras", "saved_model": "tensorflow"}


@dataclass(frozen=True)
class Bounds:
    """What a network in a process of its own may take.

    Attributes:
        load_seconds: seconds of CPU for loading it.
        batch_seconds: seconds of CPU for a batch, the first one's trace included.
        memory: bytes of memory; 0: not bounded.
        most: bytes of memory of all networks in its process; 0: not bounded.
    """

    load_seconds: float = 600
    batch_seconds: float = 600
    memory: int = 0
    most: int = 0


@dataclass(frozen=True)
class Rounding:
    """How a network computes in integers, simulated.

    Attributes:
        bits: bits of each value that goes from layer to layer.
        samples: for each input of the network, the values of some samples, which give the ranges.
    """

    bits: int
    samples: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class OutputSpec:
    """One output of a network.

    Attributes:
        name: name of the output.
        shape: without the batch axis; None for an axis of any length.
        activation: the last one; "linear" where nothing follows the sums, None where it cannot be
            told.
        alias: another name by which it is known, such as its layer's, or "".
        keyed: its name is the key of a dict: where it stands among the outputs means nothing.
    """

    name: str
    shape: tuple[int | None, ...]
    activation: str | None
    alias: str = ""
    keyed: bool = False


class Network(Protocol):
    """A network that can be run.

    Attributes:
        engine: name and version of what runs it.
        inputs, outputs: name, shape and dtype of each input, and the specification of each output.
        loss: the loss that it was compiled with, as in the file's configuration; None for none.
        fixed_batch: the only batch size that it takes, or None.
    """

    engine: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    loss: Any
    fixed_batch: int | None

    def predict(self, inputs: Mapping[str, np.ndarray], *, exact: bool = False) -> list[np.ndarray]:
        """One batch through the network, in inference mode.

        Args:
            inputs: arrays by input name, shape (samples, *shape).
            exact: run just these rows; else a small last batch may be padded to the size of the
                ones before it, which spares a new trace.
        """


def open_network(
    path: Path,
    dialect: str,
    *,
    suffix: str = ".h5",
    loss: Any = None,
    trust: bool = False,
    custom_objects: Mapping[str, Any] | None = None,
    seed: int | None = None,
    name: str = "",
    hint: str = "what runs no network, such as inspect, still works",
    signature: str | None = None,
    apart: bool = True,
    bounds: Bounds | None = None,
    mixed: bool = True,
    rounding: Rounding | None = None,
) -> Network:
    """Loads a model into the engine of its dialect.

    Args:
        path: path of the model file, whatever its suffix.
        dialect: keras1, keras2, keras3, saved_model, litert or onnx.
        suffix: format of the file for the engine: .h5, .keras or "" for a folder.
        loss: the loss that the model was compiled with, as in the file's configuration.
        trust: whether code in the file may run.
        custom_objects: the user's own layers and functions, by name.
        seed: seed of the engine's random generators; None: not set.
        name: name of the model in messages; "": its path.
        hint: what to do where the engine cannot load it.
        signature: signature of a SavedModel to run; None: the default one.
        apart: whether it runs in a process of its own; False: in this one, which it may end, as do
            networks with `custom_objects`. A `.tflite` and an `.onnx` always run in their own.
        bounds: what it may take there.
        mixed: False: Keras computes in float32 where the file asks for mixed precision.
        rounding: what goes between the layers of a Keras model is rounded; None: it is not.

    Raises:
        InputError: the engine cannot load it; one line of its reason.
        UsageError: there is no such signature.
        ResourceError: out of memory.
    """
    shown = name or str(path)
    if signature and dialect != "saved_model":
        raise UsageError(
            f"--signature: {path} is not a SavedModel and has no signatures", "leave it out"
        )
    with tempfile.TemporaryDirectory(prefix="modelcut-") as folder, quiet():
        prepare(folder)
        # Keras tells formats by the name; ours are told by content.
        link = Path(folder) / f"model{suffix}"
        link.symlink_to(path.resolve())
        how: dict[str, Any] = {
            "dialect": dialect,
            "trust": trust,
            "seed": seed,
            "hint": hint,
            "mixed": mixed,
        }
        how["signature"] = signature or ""
        if rounding is not None:
            samples = Path(folder) / "samples.npz"
            np.savez(samples, *rounding.samples)
            how["rounding"] = {"bits": rounding.bits, "samples": str(samples)}
        try:
            if (apart and not custom_objects) or dialect in _ALWAYS_APART:
                place = _APART.get(dialect, "process.networks")
                engine = import_module(f"modelcut.engines.{place}")
                network: Network = engine.load(link, loss, how, shown, bounds)
            else:
                network = load_here(link, loss=loss, custom_objects=custom_objects, **how)
        except ModelcutError as error:
            error.message = f"{shown}: {error.message}"
            raise
    return network


def load_here(
    path: Path,
    *,
    dialect: str,
    trust: bool,
    hint: str,
    loss: Any = None,
    custom_objects: Mapping[str, Any] | None = None,
    seed: int | None = None,
    signature: str = "",
    mixed: bool = True,
    rounding: Mapping[str, Any] | None = None,
) -> Any:
    """Loads a model into this process; see `open_network`, which takes these arguments too.

    The suffix of `path` must be that of the file's format.
    """
    engine = import_module(f"modelcut.engines.{_ENGINES.get(dialect, 'keras.tf_keras')}")
    more = {"signature": signature} if dialect == "saved_model" else {"mixed": mixed}
    try:
        if seed is not None:
            engine.set_seed(seed)
        network = engine.load(path, loss, trust, dict(custom_objects or {}), **more)
        if rounding is not None:
            integers = import_module("modelcut.engines.keras.integers")
            integers.simulate_on(network, rounding["bits"], Path(rounding["samples"]))
        return network
    except ModelcutError:
        raise
    except MemoryError:
        raise ResourceError("out of memory while loading the network") from None
    except Exception as error:  # noqa: BLE001 - Keras raises whatever it meets
        raise InputError(f"{engine.NAME} cannot load it: {_first_line(error)}", hint) from None


def warm(dialect: str) -> None:
    """Starts the process that networks of a dialect run in, and does not wait for it."""
    if dialect not in _ALWAYS_APART:
        import_module("modelcut.engines.process.pool").tensorflow(library_of(dialect))


def library_of(dialect: str) -> str:
    """What runs networks of a dialect on TensorFlow, as the name of a module."""
    return _LIBRARIES.get(dialect, "tf_keras")


def name_of(dialect: str) -> str:
    """Name of the engine that is started for a dialect."""
    return _ALWAYS_APART.get(dialect, "TensorFlow")


def imported(name: str) -> Any:
    """TensorFlow, or a Keras on it, as a module.

    They are half a million objects, none of which is freed: to scan them for garbage again and
    again takes a sixth of the time of their import, and half a second once they are there.

    Args:
        name: tensorflow, keras or tf_keras.
    """
    logging.getLogger("tensorflow").addFilter(_is_of_others)
    if name in sys.modules:
        return sys.modules[name]
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # TensorFlow takes these kernels by itself only on some processors. With AVX2 alone they took a
    # third off the CPU time of training a LeNet-5.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        # When the process ends they go in the usual order: servers of TensorFlow depend on it.
        atexit.register(gc.unfreeze)
        if collects:
            gc.enable()


def _is_of_others(record: logging.LogRecord) -> bool:
    """Whether a message is not about networks of ours, each of which is traced once.

    TensorFlow takes them all for one function, which should not be traced again and again.
    """
    text = str(record.msg)
    return not ("retracing" in text and "of <modelcut." in text)


def prepare(folder: str) -> None:
    """Settings that must stand before Keras is imported; a user's own keras.json is not read."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "-1"))
    if "keras" not in sys.modules and "tf_keras" not in sys.modules:
        os.environ["KERAS_HOME"] = folder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what libraries print, from C too, out of our stdout and stderr."""
    saved = []
    try:
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
            with contextlib.suppress(OSError):
                saved.append((number, os.dup(number)))
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, number)
                os.close(null)
        yield
    finally:
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)


def _first_line(error: Exception) -> str:
    """What of a long message matters to someone who did not write the engine."""
    lines = [line.strip() for line in colourless(str(error)).splitlines() if line.strip()]
    text = " ".join(lines[:2]) or type(error).__name__
    return printable(text, 240)


def load_custom_objects(spec: str) -> dict[str, Any]:
    """Imports the user's own module, once, and collects its classes and functions by name.

    What it merely imports from elsewhere is not the user's, but for classes made of Keras's.

    Args:
        spec: path of a .py file, or dotted name of a module.

    Raises:
        UsageError: it cannot be imported.
    """
    changed = Path(spec).stat().st_mtime_ns if spec.endswith(".py") and Path(spec).exists() else 0
    return dict(_own_objects(spec, changed))


@functools.lru_cache(maxsize=4)
def _own_objects(spec: str, changed: int) -> dict[str, Any]:
    del changed  # a part of the key
    try:
        if spec.endswith(".py"):
            location = importlib.util.spec_from_file_location(Path(spec).stem, spec)
            if location is None or location.loader is None:
                raise ImportError("not a Python file")
            module = importlib.util.module_from_spec(location)
            with quiet():
                location.loader.exec_module(module)
        else:
            with quiet():
                module = import_module(spec)
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        raise UsageError(f"--custom-objects {spec}: {_first_line(error)}") from None
    return {
        name: item
        for name, item in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(item) or inspect.isfunction(item))
        and _is_own(item, module.__name__)
    }


def _is_own(item: Any, module: str) -> bool:
    """Whether a class or function is of a module (or its package), registered, or made of Keras."""
    bases = getattr(item, "__mro__", ())
    made_of_keras = any(str(b.__module__).split(".")[0] in ("keras", "tf_keras") for b in bases)
    same = str(item.__module__).split(".")[0] == module.split(".")[0]
    return same or made_of_keras or bool(_registered(item))


def _registered(item: Any) -> list[str]:
    """The names by which the Keras that are imported know an object, if it was registered there."""
    found = (sys.modules.get(f"{name}.src.saving.object_registration") for name in _KERAS)
    names = [module.get_registered_name(item) for module in found if module is not None]
    return [name for name in names if name != getattr(item, "__name__", "")]


_KERAS = ("keras", "tf_keras")


def has_registered() -> bool:
    """Whether classes or functions of the user's are registered with a Keras of this process."""
    places = (sys.modules.get(f"{name}.src.saving.object_registration") for name in _KERAS)
    return any(
        getattr(place, kind, None)
        for place in places
        for kind in ("GLOBAL_CUSTOM_OBJECTS", "_GLOBAL_CUSTOM_OBJECTS")
    )


def names_of(custom_objects: Mapping[str, Any]) -> frozenset[str]:
    """All names by which Keras finds the user's own classes and functions before any others."""
    registered = (name for item in custom_objects.values() for name in _registered(item))
    return frozenset((*custom_objects, *registered))
