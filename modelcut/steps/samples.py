"""The calibration samples of a step, and what goes into layers over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from modelcut.steps.base import Context

if TYPE_CHECKING:
    from modelcut.runtime import Part, Rows, Running, Runtime

_VALUES = 1 << 18
"""Input values of a batch, about; at least 8 samples, and at most 256."""


def some_rows(
    runtime: Runtime,
    running: Running,
    size: int,
    most: int,
    context: Context,
    part: Part = "all",
) -> Iterator[Rows]:
    """At most so many training rows, drawn from all of them: a CSV may be sorted.

    Those on which something is judged are left out, if there are any.
    """
    size, share = min(size, most), context.set_aside
    part = "train" if share and part == "all" else part
    taken = runtime.rows(running, size, part=part, share=share, shuffle=context.seed)
    for number, rows in enumerate(islice(taken, -(-most // size))):
        yield rows[: most - number * size]


class Samples:
    """At most so many calibration samples, the same ones each time that they are asked for."""

    def __init__(self, runtime: Runtime, context: Context, most: int, title: str) -> None:
        self.runtime, self.context, self.most, self.title = runtime, context, most, title
        self._batches: list[Rows] = []

    def batches(self, running: Running) -> Sequence[Rows]:
        """The samples in batches; kept in memory, for there are few."""
        if not self._batches:
            one = next(iter(some_rows(self.runtime, running, 1, 1, self.context, "calibration")))
            values = sum(array.size for array in one.inputs)
            size = int(np.clip(_VALUES // max(1, values), 8, 256))
            found = some_rows(self.runtime, running, size, self.most, self.context, "calibration")
            self._batches = list(found)
        return self._batches

    @property
    def count(self) -> int:
        """Samples, as far as they were asked for."""
        return sum(map(len, self._batches))

    def inputs(
        self, running: Running, layers: Sequence[str]
    ) -> Iterator[tuple[int, dict[str, list[np.ndarray]]]]:
        """What goes into some layers: of each batch its samples, and the inputs of each call."""
        for rows in self.batches(running):
            yield len(rows), running.layer_inputs(rows, layers, again=True)
