"""How a large array is walked: in blocks of rows, on all cores, results in order.

NumPy and ISA-L release the interpreter lock, so threads are enough; partial results come back in
the order of the blocks, so that sums do not depend on which thread was faster.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

import numpy as np

BLOCK_BYTES = 1 << 20
"""Bytes a block aims at: large enough to hide the call, small enough for the cache."""

ALL = slice(None)
SCALAR: Any = ...
"""All of an array without axes, which no slice can index."""

T = TypeVar("T")
R = TypeVar("R")


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="modelcut")


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields `function(item)` for each item, in order, computed on all cores.

    At most two items a core are under way at a time, so that neither items nor results pile up in
    memory. `function` must not call `in_threads` itself.
    """
    coming = iter(items)
    first = list(islice(coming, 2 * (os.cpu_count() or 1)))
    if len(first) < 2:
        yield from map(function, first)
        return
    pending = [_pool().submit(function, item) for item in first]
    try:
        for item in coming:
            yield pending.pop(0).result()
            pending.append(_pool().submit(function, item))
        while pending:
            yield pending.pop(0).result()
    finally:
        for future in pending:
            future.cancel()


def row_blocks(shape: Sequence[int], itemsize: int, multiple: int = 1) -> list[slice]:
    """Splits the first axis into slices of about `BLOCK_BYTES` (no axis: `SCALAR`).

    Each slice but the last is of a length that `multiple` divides.
    """
    if not shape:
        return [SCALAR]
    row_bytes = max(1, itemsize * int(np.prod(shape[1:], dtype=np.int64)))
    step = max(1, BLOCK_BYTES // row_bytes // multiple) * multiple
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def map_rows(function: Callable[[slice], R], values: Any, multiple: int = 1) -> list[R]:
    """Calls `function(rows)` for each block of rows of `values`, on all cores, in order.

    Args:
        function: called from several threads.
        values: an array, or anything with a shape and a dtype.
        multiple: see `row_blocks`.
    """
    return list(in_threads(function, row_blocks(values.shape, values.dtype.itemsize, multiple)))


def ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The same items, made by a thread that works up to `depth` of them ahead."""
    done = object()
    waiting: Queue[Any] = Queue(depth)
    stop = Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(Full):
                waiting.put(item, timeout=0.2)
                break

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((done, None))
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            put((done, error))

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is done:
                return
            yield item
    finally:
        stop.set()
        thread.join()
