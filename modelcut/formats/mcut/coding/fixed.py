"""Logarithms, odds and frequencies in integers only, so that every machine decodes the same."""

from __future__ import annotations

from functools import lru_cache
from math import isqrt

import numpy as np

ONE = 1 << 16
"""A density of 1."""

LOG_STEPS = 32
"""Steps of a logarithm to a factor of 2."""

TOTAL = 1 << 20
"""The sum of the frequencies of a model."""

ODDS_STEPS = 16
"""Steps of the odds of `chances` to a factor of 2."""

_MOST_ODDS = 20

MIDDLE = _MOST_ODDS * ODDS_STEPS
"""The index of even odds in `chances`."""


def root(steps: int, of: int) -> int:
    """The integer part of 2^(steps / of), `of` a power of two."""
    value = 1 << steps
    while of > 1:
        value = isqrt(value)
        of //= 2
    return value


@lru_cache(maxsize=1)
def logs() -> np.ndarray:
    """`LOG_STEPS` times the binary logarithm of d / `ONE` for d in 0 .. ONE; 0 is taken for 1/2.

    Returns:
        int32, shape (ONE + 1,); read-only.
    """
    number = np.arange(ONE + 1, dtype=np.uint64)
    number[0] = 1
    whole = np.zeros(number.size, np.int32)
    for power in range(16, 0, -1):
        whole += number >= np.uint64(1 << power)
    # Digit by digit: squaring a number of 1 .. 2 doubles its logarithm.
    rest = number << (np.uint64(30) - whole.astype(np.uint64))
    found = whole
    for _ in range(LOG_STEPS.bit_length() - 1):
        rest = rest * rest >> np.uint64(30)
        over = rest >= np.uint64(1 << 31)
        rest >>= over.astype(np.uint64)
        found = 2 * found + over
    found = found.astype(np.int32) - 16 * LOG_STEPS
    found[0] -= LOG_STEPS
    found.flags.writeable = False
    return found


@lru_cache(maxsize=1)
def chances() -> np.ndarray:
    """Shares of 0 and 1 at odds of 2^(x / ODDS_STEPS), x from -_MOST_ODDS ODDS_STEPS up.

    Returns:
        float64 whole numbers that add up to `TOTAL`, shape (n, 2); read-only.
    """
    rows = []
    for x in range(-MIDDLE, MIDDLE + 1):
        odds = root(x + 2 * MIDDLE, ODDS_STEPS)
        one = (TOTAL * odds) // (odds + (1 << 2 * _MOST_ODDS))
        one = min(max(one, 1), TOTAL - 1)
        rows.append((TOTAL - one, one))
    found = np.asarray(rows, np.float64)
    found.flags.writeable = False
    return found


def density(step: int) -> int:
    """2^(-step / 8) of `ONE`, at least 1."""
    return max(1, root(8 * 16 - step, 8) if step <= 8 * 16 else 1)


def filled(frequencies: np.ndarray) -> np.ndarray:
    """Shares, along the last axis, made to add up to `TOTAL` by the largest."""
    lines = frequencies.reshape(-1, frequencies.shape[-1])
    lines[np.arange(len(lines)), lines.argmax(axis=1)] += TOTAL - lines.sum(axis=1)
    return frequencies
