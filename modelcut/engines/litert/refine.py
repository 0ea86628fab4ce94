"""The process that refines a quantized `.tflite`: ranges that clip, and biases that correct means.

Each is fitted on a quarter of the calibration samples; on the others, the version is chosen whose
outputs are nearest to those of the network in floats. That may be the file as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.engines.litert import biases, ranges
from modelcut.engines.litert.biases import Row
from modelcut.engines.litert.inside import Inside, alike
from modelcut.engines.process import child
from modelcut.engines.process.serve import wind

_MOST_MACS = 3e11
"""Multiply-accumulates that one version may take: about a minute, counted and not timed, so that a
file has the same bytes on every machine."""
_FEWEST = 16


def refine(request: dict[str, Any]) -> dict[str, Any]:
    """Refines a file in place; what the report says of it."""
    target, seconds = Path(request["target"]), request["seconds"]["row"]
    wind(request["seconds"]["stage"])
    with np.load(request["rows"]) as stored:
        columns = [stored[name] for name in stored.files]
    rows = list(zip(*columns, strict=True))
    content, found = refined(target.read_bytes(), Path(request["twin"]).read_bytes(), rows, seconds)
    target.write_bytes(content)
    return found


def refined(
    content: bytes, twin: bytes, rows: Sequence[Row], seconds: float
) -> tuple[bytes, dict[str, Any]]:
    """The best of three versions of a file: as it is, with other biases, with other ranges too.

    Args:
        content: the quantized file.
        twin: the same network in floats.
        rows: calibration samples; of four, one is for fitting and three for the comparison.
        seconds: CPU seconds that a row may take.

    Returns:
        The content; and "samples": on how many it was chosen; "mse_before" and "mse_after": mean
        squared difference of the outputs there, before a softmax or a sigmoid; "biases" and
        "ranges": how many were changed; "why": why nothing was tried, or "".
    """
    file = _File(content)
    floats, made = Inside(twin), Inside(content)
    same = {place: number for number, place in alike(floats, made).items()}
    found = [bias for bias in file.biases(made) if bias.number in same]
    fitted = rows[::4]
    others = [row for number, row in enumerate(rows) if number % 4]
    affordable = int(_MOST_MACS / max(1, sum(bias.macs for bias in found) * len(found)))
    why = ""
    if not found:
        why = "no bias in whole numbers"
    elif len(rows) < _FEWEST:
        why = "too few samples"
    elif affordable < _FEWEST:
        why = "the network is too large"
    if why:
        return content, {"biases": 0, "ranges": 0, "why": why}
    fitted, others = fitted[:affordable], others[: 3 * affordable]
    wanted = biases.means(floats, fitted, [same[bias.number] for bias in found], seconds)
    last = _judged(made, same)
    expected = [floats.run(row)[same[last]] for row in others]
    chosen, least = (content, 0, 0), _error(made, last, others, expected, seconds)
    before = least
    for clips in (False, True):
        file = _File(content)
        mine = [bias for bias in file.biases(made) if bias.number in same]
        narrower = 0
        if clips:
            samples = _held(floats, fitted, made, same, seconds)
            narrower = ranges.clip(file.graph, file.operators, mine, file.int8, samples)
            if not narrower:
                break
        biases.correct(mine, wanted, fitted, file.inside, seconds)
        version = file.packed()
        error = _error(Inside(version), last, others, expected, seconds)
        if error < least:
            chosen, least = (version, len(mine), narrower), error
    return chosen[0], {
        "samples": len(others),
        "mse_before": before,
        "mse_after": least,
        "biases": chosen[1],
        "ranges": chosen[2],
        "why": "",
    }


def _judged(made: Inside, same: Mapping[int, int]) -> int:
    """The operator by whose output versions are compared: the last one, or what it squashes.

    Errors of probabilities are those of the few samples that are near a decision: a hundred samples
    tell little of them.
    """
    last = max(same)
    squashes = made.operators[last] in ("SOFTMAX", "LOGISTIC") and last - 1 in same
    return last - 1 if squashes else last


class _File:
    """A file with one graph, unpacked to be changed."""

    def __init__(self, content: bytes) -> None:
        try:
            from ai_edge_litert import schema_py_generated as schema
        except ImportError:
            from tensorflow.lite.python import schema_py_generated as schema
        self._schema = schema
        self._size = len(content)
        self.model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
        self.graph = self.model.subgraphs[0]
        self.int8 = int(schema.TensorType.INT8)
        names = {
            number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()
        }
        codes = [
            names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            for code in self.model.operatorCodes
        ]
        self.operators = [(codes[each.opcodeIndex], each) for each in self.graph.operators]

    def biases(self, made: Inside) -> list[biases.Bias]:
        """The biases that may be changed."""
        return biases.find(self.model, self.operators, self._schema, made.outputs)

    def inside(self) -> Inside:
        """An interpreter of the file as it is now."""
        return Inside(self.packed())

    def packed(self) -> bytes:
        """The file as it is now."""
        import flatbuffers

        builder = flatbuffers.Builder(self._size + 4096)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _held(
    floats: Inside, rows: Sequence[Row], made: Inside, same: Mapping[int, int], seconds: float
) -> Iterator[Mapping[int, np.ndarray]]:
    """What the tensors of a file would hold in floats, by its twin."""
    for row in rows:
        wind(seconds)
        outputs = floats.run(row)
        yield {made.outputs[place]: outputs[number] for place, number in same.items()}


def _error(
    inside: Inside, last: int, rows: Sequence[Row], expected: Sequence[np.ndarray], seconds: float
) -> float:
    """Mean squared difference of the last operator's output from the twin's."""
    total = count = 0.0
    for row, twin in zip(rows, expected, strict=True):
        wind(seconds)
        off = inside.run(row)[last].astype(np.float64) - twin
        total, count = total + float(np.square(off).sum()), count + off.size
    return total / count


if __name__ == "__main__":
    child.answer(refine)
