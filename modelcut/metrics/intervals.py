"""Confidence intervals and tests in closed form: what a number of samples can tell.

All intervals are two-sided at `CONFIDENCE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

CONFIDENCE = 0.95
Interval: TypeAlias = "tuple[float, float]"
_Z = 1.959963984540054
"""Quantile of the standard normal distribution at (1 + CONFIDENCE) / 2."""


def wilson(hits: int, rows: int, z: float = _Z) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927; Brown, Cai and DasGupta 2001, eq. 4).

    Args:
        hits: number of successes.
        rows: number of samples; 0 gives (0, 1).
        z: half of its width, in standard errors.
    """
    if rows <= 0:
        return 0.0, 1.0
    share, spread = hits / rows, z * z / rows
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    # At 0 and 1 the bound is exact; rounding must not move it.
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    return low, 1.0 if hits == rows else min(1.0, middle + half)


def mean_of(parts: Sequence[tuple[float, Interval]]) -> Interval:
    """The interval of a mean of independent proportions (MOVER; Zou and Donner 2008, eq. 9).

    Args:
        parts: each proportion with its own interval.
    """
    if not parts:
        return 0.0, 1.0
    mean = sum(value for value, _ in parts) / len(parts)
    below = math.sqrt(sum((value - low) ** 2 for value, (low, _) in parts)) / len(parts)
    above = math.sqrt(sum((high - value) ** 2 for value, (_, high) in parts)) / len(parts)
    return max(0.0, mean - below), min(1.0, mean + above)


def paired_difference(lost: int, gained: int, rows: int, z: float = _Z) -> Interval:
    """The interval of a drop of a proportion between two models on the same samples.

    Agresti and Min (2005), section 2.2: Wald's interval with half a sample added to each of the
    four cells, which has its nominal coverage where Wald's own is far below it.

    Args:
        lost: samples on which only the first model is right.
        gained: samples on which only the second model is right.
        rows: number of samples; 0 gives (-1, 1).
        z: half of its width, in standard errors.

    Returns:
        Of (lost - gained) / rows.
    """
    if rows <= 0:
        return -1.0, 1.0
    total = rows + 2
    first, second = (lost + 0.5) / total, (gained + 0.5) / total
    drop = first - second
    half = z * math.sqrt(max(0.0, first + second - drop * drop) / total)
    return max(-1.0, drop - half), min(1.0, drop + half)


def mcnemar(lost: int, gained: int) -> float:
    """The two-sided p-value of McNemar's exact test (McNemar 1947): are two models equally right?

    Args:
        lost: samples on which only the first model is right.
        gained: samples on which only the second model is right.
    """
    number, least = lost + gained, min(lost, gained)
    if number == 0:
        return 1.0
    # Of the binomial distribution at one half; logarithms, since 2^-n is 0 in floats for n > 1074.
    whole = math.lgamma(number + 1) - number * math.log(2)
    terms = (whole - math.lgamma(k + 1) - math.lgamma(number - k + 1) for k in range(least + 1))
    return min(1.0, 2 * math.fsum(math.exp(term) for term in terms))


def higher(hits: int, rows: int, others: int, other_rows: int) -> float:
    """The one-sided p-value of a higher proportion in one of two independent samples.

    The pooled z test (Fleiss, Levin and Paik 2003, section 3.1), without correction.

    Args:
        hits: number of successes in the sample whose proportion may be higher.
        rows: its size.
        others: number of successes in the other one.
        other_rows: its size.
    """
    if not rows or not other_rows:
        return 1.0
    pooled = (hits + others) / (rows + other_rows)
    error = math.sqrt(pooled * (1 - pooled) * (1 / rows + 1 / other_rows))
    if not error:
        return 1.0
    return math.erfc((hits / rows - others / other_rows) / error / math.sqrt(2)) / 2


def of_median(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The interval of a median by order statistics: of any distribution (David and Nagaraja 2003).

    Of few values the range of them, whose confidence is lower.
    """
    found = sorted(values)
    number, tail, last = len(found), 0.0, 0
    for k in range(number // 2):
        tail += math.comb(number, k) * 0.5**number
        if tail > (1 - confidence) / 2:
            break
        last = k
    return found[last], found[number - 1 - last]


def of_sample(values: np.ndarray) -> Interval:
    """The percentile interval of bootstrap replicates (Efron 1979)."""
    low, high = np.quantile(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)
