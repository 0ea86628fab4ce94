"""LiteRT: makes a `.tflite` of a Keras file, and runs one. Each in a process of its own.

Both the converter and the interpreter are C++ that ends the process on some inputs (an LSTM in
8 bits, a damaged file): there, that is an error message.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.engines import Bounds
from modelcut.engines.process import child
from modelcut.engines.process.host import LOAD_SECONDS, Host, NetworkApart
from modelcut.errors import InputError
from modelcut.safety import printable

NAME = "LiteRT"
ROW_SECONDS = 120
"""Seconds of CPU that one row may take: a loop in a `.tflite` may have no end."""
STAGE_SECONDS = LOAD_SECONDS
"""Seconds of CPU that a stage of the converter may take; VGG16 took 52 for all of them."""
_ARENA_SECONDS = 300
_RUNS = 30


@dataclass(frozen=True)
class Conversion:
    """What `converter` is asked for.

    Attributes:
        source: scratch file that holds the model.
        shown: the file that messages name.
        dialect: the Keras that the model is of.
        suffix: suffix by which the engine knows the source's format.
        target: the `.tflite` to make.
        metadata: name under which `provenance` is stored in it.
        trust: whether code in the file may run.
        custom_objects: module with the user's own layers and functions.
        signature: of a SavedModel, the one to convert; None: the only one.
        twin: where to write one that is not quantized; None: nowhere.
        rows: where to write calibration rows for `refine`; None: nowhere.
        type: float32, float16, dynamic, int8 or int16x8.
        io: type of inputs and outputs.
        sparse: whether zeros are left out.
        samples: number of calibration samples.
        calibrate: source of these; None: none.
        data: how that is parsed, as JSON data of `DataOptions`.
        provenance: of the model, as JSON text.
    """

    source: str
    shown: str
    dialect: str
    suffix: str
    target: str
    metadata: str
    trust: bool = False
    custom_objects: str = ""
    signature: str | None = None
    twin: str | None = None
    rows: str | None = None
    type: str = "float32"
    io: str = "float32"
    sparse: bool = False
    samples: int = 0
    calibrate: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    provenance: str = "{}"


def convert(conversion: Conversion) -> dict[str, Any]:
    """Makes a `.tflite`.

    Raises:
        InputError: the converter cannot; one line of its reason. Or it came to no end.
        ResourceError: it was killed, for want of memory.
    """
    return child.ask(
        "litert.converter",
        {**asdict(conversion), "seconds": {"stage": STAGE_SECONDS, "row": ROW_SECONDS}},
        what=f"LiteRT's converter {{}} on it as {conversion.type}",
        hint="try another --type; float32 and dynamic take the most layers",
    )


def refine(request: Mapping[str, Any]) -> dict[str, Any]:
    """Refines ranges and biases of a quantized `.tflite`; `request` is what `refine.refine` takes.

    Raises:
        InputError: the interpreter cannot run it. Or it came to no end.
        ResourceError: it was killed, for want of memory.
    """
    return child.ask(
        "litert.refine",
        {**request, "seconds": {"stage": STAGE_SECONDS, "row": ROW_SECONDS}},
        what="LiteRT's interpreter {} on the file that was being refined",
        hint="--refine none leaves it as it is",
    )


def by_layer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compares a `.tflite` with a Keras network; `request` is what `by_layer.compare` takes.

    Raises:
        InputError: the network cannot be run or converted. Or it came to no end.
        ResourceError: it was killed, for want of memory.
    """
    return child.ask(
        "litert.by_layer",
        {**request, "seconds": {"stage": STAGE_SECONDS, "row": ROW_SECONDS}},
        what="LiteRT's interpreter {} on one of its layers",
        hint="leave out --layer-errors",
    )


def milliseconds(path: Path) -> float:
    """Of a single row of zeros, the fastest of some runs: to hold two files against each other."""
    network = LiteRTNetwork(path)
    shapes = {spec.name: [1, *(n or 1 for n in spec.shape)] for spec in network.inputs}
    rows = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in network.inputs}
    times = []
    for _ in range(_RUNS):
        network.predict(rows)
        times.append(network.seconds or 0.0)
    return 1000 * min(times)


def arena(path: Path, inputs: int) -> dict[str, Any]:
    """The tensor arena that a file takes on a microcontroller, as measured here.

    Args:
        path: path of the `.tflite` file.
        inputs: number of inputs of the network.

    Returns:
        "bytes", "engine" and "pointer_bytes"; or "bytes" None and "why".
    """
    if importlib.util.find_spec("tflite_micro") is None:
        why = "tflite-micro is not installed: pip install 'modelcut[micro]'"
        return {"bytes": None, "why": why}
    with tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
        answer = Path(folder) / "answer.json"
        try:
            ended = subprocess.run(
                child.command("litert.arena", str(path), str(answer), str(inputs)),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                env=child.environment(),
                timeout=_ARENA_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return {"bytes": None, "why": f"tflite-micro took more than {_ARENA_SECONDS} s"}
        if not answer.exists():
            return {"bytes": None, "why": f"tflite-micro {child.death(ended.returncode)} on it"}
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if found.get("why"):
        found["why"] = "tflite-micro does not run it: " + printable(found["why"], 240)
    return found


class LiteRTNetwork(NetworkApart):
    """A `.tflite` behind an interpreter; see `Network`.

    Quantized inputs and outputs are floats on this side.
    """

    def __init__(self, path: Path, shown: str = "") -> None:
        where = str(path.resolve())
        host = Host("LiteRT's interpreter", "litert.runner", where, str(ROW_SECONDS))
        super().__init__(host, {}, shown or str(path))

    def predict(self, inputs: Mapping[str, np.ndarray], *, exact: bool = False) -> list[np.ndarray]:
        """See `Network`; rows are run one by one, as on a device."""
        del exact
        by_name = all(spec.name in inputs for spec in self.inputs)
        arrays = [inputs[s.name] for s in self.inputs] if by_name else list(inputs.values())
        if len(arrays) != len(self.inputs):
            raise InputError(f"{self.shown}: takes {len(self.inputs)} inputs, not {len(arrays)}")
        return self._run(arrays, None, f"after {ROW_SECONDS} s of CPU on one row")[1]


def load(
    path: Path, loss: Any, how: Mapping[str, Any], shown: str, bounds: Bounds | None
) -> LiteRTNetwork:
    """Starts an interpreter on a file."""
    del loss, how, bounds
    return LiteRTNetwork(path, shown)
