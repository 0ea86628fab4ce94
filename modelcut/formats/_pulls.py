"""Tensors pulled for a writer: the next one while the last is still being coded and written."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from modelcut.encoding import Encoding
from modelcut.formats import WriteOptions
from modelcut.measure import Meter
from modelcut.model import Tensor

_MOST_BYTES = 128 << 20
"""Of two tensors at a time; a larger one keeps all cores busy by itself."""

Pulled = tuple[np.ndarray, Encoding, Meter | None]


class Pulls:
    """Pulls tensors in an order that is known beforehand; a context manager."""

    def __init__(
        self, tensors: Iterable[Tensor], options: WriteOptions, *, deflates: bool = False
    ) -> None:
        """Nothing is pulled yet.

        Args:
            tensors: in the order in which they will be taken.
            options: gives the meters.
            deflates: see `Tensor.pull`.
        """
        order = list(tensors)
        self._next = {one.name: two for one, two in pairwise(order)}
        self._options = options
        self._deflates = deflates
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="modelcut-pull")
        self._coming: dict[str, Future[Pulled]] = {}

    def __enter__(self) -> Pulls:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, tensor: Tensor) -> Pulled:
        """The values, their encoding, and the meter that watched, if any.

        Raises:
            ModelcutError: see `Tensor.pull`.
        """
        coming = self._coming.pop(tensor.name, None)
        found = coming.result() if coming else self._pull(tensor)
        after = self._next.get(tensor.name)
        if after is not None and tensor.nbytes + after.nbytes <= _MOST_BYTES:
            self._coming[after.name] = self._pool.submit(self._pull, after)
        return found

    def _pull(self, tensor: Tensor) -> Pulled:
        meter = self._options.meter(tensor)
        values, encoding = tensor.pull(meter, deflates=self._deflates)
        return values, encoding, meter
