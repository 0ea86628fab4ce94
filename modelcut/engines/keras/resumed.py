"""What layers gave for the same samples before: a forward pass goes on where something changed.

A step that looks at one layer after the other asks for the same samples again and again, and
changes one layer in between. A layer that is given the very tensors that it was given before, and
whose weights are the same, gives what it gave; so only what lies behind a change is computed anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelcut.data.rows import Rows

_MOST_BYTES = 3 << 28
"""Of the outputs that are kept, 768 MiB; batches beyond that are computed each time."""


@dataclass(frozen=True)
class _Given:
    """One call of a layer: what went in, what came out, and with which weights."""

    inputs: Any
    output: Any
    version: int
    size: int


class Batch:
    """The calls of one batch of samples."""

    def __init__(self, memo: Memo, rows: Rows, tensors: list[Any]) -> None:
        self._memo, self.rows, self.tensors = memo, rows, tensors
        self._calls: dict[tuple[str, int], _Given] = {}
        self._numbers: dict[str, int] = defaultdict(int)
        self._kept = True

    def begin(self) -> None:
        """A forward pass begins."""
        self._numbers.clear()

    def known(self, name: str, inputs: Any) -> tuple[Any, bool]:
        """What a layer gave for these inputs, and whether it is known."""
        number = self._numbers[name]
        self._numbers[name] += 1
        found = self._calls.get((name, number))
        if found is None or found.version != self._memo.versions[name]:
            return None, False
        same = _identical(found.inputs, inputs)
        return (found.output, True) if same else (None, False)

    def keep(self, name: str, inputs: Any, output: Any) -> None:
        """Keeps what the call gave that was asked for last, as long as there is room."""
        if not self._kept:
            return
        key = name, self._numbers[name] - 1
        size = sum(_bytes(part) for part in _flat(output))
        before = self._calls.pop(key, None)
        self._memo.held += size - (before.size if before else 0)
        if self._memo.held > _MOST_BYTES:
            self._memo.held -= size + sum(each.size for each in self._calls.values())
            self._calls.clear()
            self._kept = False
            return
        self._calls[key] = _Given(inputs, output, self._memo.versions[name], size)


class Memo:
    """The calls of a network's layers, by batch.

    Attributes:
        versions: layer -> how often its weights were replaced.
        held: bytes of what is kept.
    """

    def __init__(self) -> None:
        self.versions: dict[str, int] = defaultdict(int)
        self.held = 0
        self._batches: dict[int, Batch] = {}

    def batch(self, rows: Rows, tensors: Any) -> Batch:
        """The calls of a batch; `tensors` makes TensorFlow's of its inputs."""
        key = id(rows)
        if key not in self._batches:
            self._batches[key] = Batch(
                self, rows, tensors(rows)
            )  # holds the rows: the id is theirs
        found = self._batches[key]
        found.begin()
        return found

    def changed(self, names: Mapping[str, Any], layers: Mapping[str, Any]) -> None:
        """Tensors of these names were replaced."""
        for name in names:
            parts = name.split("/")
            for end in range(len(parts) - 1, 0, -1):
                if (layer := "/".join(parts[:end])) in layers:
                    self.versions[layer] += 1
                    break


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [part for each in value for part in _flat(each)]
    return [value]


def _identical(one: Any, other: Any) -> bool:
    a, b = _flat(one), _flat(other)
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _bytes(tensor: Any) -> int:
    count = 1
    for n in getattr(tensor, "shape", ()):
        count *= int(n or 1)
    return count * int(getattr(getattr(tensor, "dtype", None), "size", 4))
