"""Positions of the symbols of a matrix that are not the common one: the odds at each position.

The odds are a product of powers, as in logistic mixing (Mahoney 2005), of

    1                              the density of the block
    the column so far              against that density
    this row, in earlier passes    likewise, started from the rows before
    the rows before                likewise, older ones forgotten
    the row a lag before           likewise
    above; a lag above             2 where that symbol is another one than the common
    all around                     1 + a weighted count of such neighbours

with exponents that the encoder fits (iteratively reweighted least squares) and sends, a byte each.
The lag is sent too: the width of an image whose pixels are the rows, or the input channels of a
convolution. All is integers: both sides must agree to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelcut.formats.mcut.coding import fixed
from modelcut.formats.mcut.coding.bits import ByteReader

BIAS, COLUMN, ROW, BEFORE, LAGGED, ABOVE, LAG, AROUND = range(8)
"""The exponents, in the order of the list above."""

_UNIT = 16
"""What an exponent of 1 is written as."""
_CHUNK = 1 << 18
_SAMPLE = 1 << 15
_WORTH = 10 * 0.7
"""Nats that an exponent must save."""


def passes_of(height: int, width: int) -> int:
    """Passes a stripe is decoded in."""
    return max(1, min(8, width // 24, (1 << 13) // height))


@dataclass(frozen=True)
class Odds:
    """What the encoder sends of the positions."""

    lag: int
    step: int
    exponents: tuple[int, ...]

    def write(self) -> bytes:
        mask = sum(1 << i for i, value in enumerate(self.exponents) if value)
        sent = bytes(value & 0xFF for value in self.exponents if value)
        return bytes([self.step, mask]) + sent

    @classmethod
    def read(cls, reader: ByteReader, lag: int) -> Odds:
        step, mask = reader.byte(), reader.byte()
        exponents = [0] * 8
        for index in range(8):
            if mask >> index & 1:
                value = reader.byte()
                exponents[index] = value - 256 * (value > 127)
        return cls(lag, step, tuple(exponents))

    def around(self) -> np.ndarray:
        """The part of the odds that each pattern of neighbours makes; int32, shape (32,)."""
        logs = fixed.logs()
        pattern = np.arange(32)
        up, lag, before, after, second = (pattern >> bit & 1 for bit in range(5))
        count = 1 + 4 * up + 4 * lag + 3 * after + before + second
        found = fixed.LOG_STEPS * (
            self.exponents[ABOVE] * up + self.exponents[LAG] * lag + self.exponents[BIAS]
        )
        found += self.exponents[AROUND] * (logs[count << 12] + 4 * fixed.LOG_STEPS)
        return found.astype(np.int32)


class Past:
    """What is known of a matrix while it is decoded row by row."""

    def __init__(self, height: int, width: int, lag: int, step: int) -> None:
        self.height, self.width, self.lag = height, width, lag
        self.passes = passes_of(height, width)
        self.mean = fixed.density(step)
        self.base = 4 * step
        self.columns = np.full(width, 2 * self.mean, np.int32)
        self.recent = self.mean
        self.densities: list[int] = []
        self.row = 0
        self._quotient = np.empty(width, np.int32)

    def column_logs(self) -> np.ndarray:
        """Of the density of each column so far, against the mean: int32, shape (width,)."""
        np.floor_divide(self.columns, self.row + 2, out=self._quotient)
        return fixed.logs().take(self._quotient, mode="clip")

    def pattern(self, kept: np.ndarray) -> np.ndarray:
        """Which neighbours are kept, a bit each: uint8, shape (width,).

        Args:
            kept: uint8 0 or 1, shape (height, width); rows before this one are read.
        """
        row, lag = self.row, self.lag
        found = np.zeros(self.width, np.uint8)
        for bit, back in enumerate((1, lag, lag + 1, lag - 1, 2)):
            if bit in (1, 2, 3) and not lag:
                continue
            if 0 < back <= row:
                found |= kept[row - back] << np.uint8(bit)
        return found

    def scalars(self) -> tuple[int, int]:
        """Logarithms of the rows before, and of the row a lag before."""
        weighed = (self.width * self.recent + 2 * self.mean) // (self.width + 2)
        lagged = self.mean
        if self.lag and self.row >= self.lag:
            lagged = self.densities[self.row - self.lag]
            lagged = (self.width * lagged + 2 * self.mean) // (self.width + 2)
        return self.log(weighed), self.log(lagged)

    def row_log(self, count: int, seen: int) -> int:
        """Of the density of this row, `count` of `seen` symbols known."""
        trust = self.width // 16 + 4
        total = (count << 16) + trust * self.recent + self.mean // 2
        return self.log(total // (seen + trust + 1))

    def log(self, value: int) -> int:
        return int(fixed.logs()[min(value, fixed.ONE)]) + self.base

    def add(self, kept: np.ndarray, count: int) -> None:
        """Advances to the next row."""
        self.columns += kept.astype(np.int32) << 16
        density = (count << 16) // self.width
        self.densities.append(density)
        self.recent += (density - self.recent) * 13 >> 5
        self.row += 1


@dataclass(frozen=True)
class Survey:
    """All that the odds of a matrix are made of.

    Attributes:
        columns: int16, shape (height, width).
        patterns: uint8, shape (height, width).
        rows: int32, shape (height, passes).
        scalars: int32, shape (height, 2): `BEFORE` and `LAGGED`.
    """

    columns: np.ndarray
    patterns: np.ndarray
    rows: np.ndarray
    scalars: np.ndarray


def _survey(kept: np.ndarray, lag: int, step: int) -> Survey:
    height, width = kept.shape
    past = Past(height, width, lag, step)
    found = Survey(
        np.empty(kept.shape, np.int16),
        np.empty(kept.shape, np.uint8),
        np.empty((height, past.passes), np.int32),
        np.empty((height, 2), np.int32),
    )
    sums = np.stack(
        [kept[:, first :: past.passes].sum(axis=1, dtype=np.int64) for first in range(past.passes)],
        axis=1,
    )
    sizes = [len(range(first, width, past.passes)) for first in range(past.passes)]
    for row in range(height):
        found.columns[row] = past.column_logs() + past.base
        found.patterns[row] = past.pattern(kept)
        found.scalars[row] = past.scalars()
        count = seen = 0
        for number, (own, size) in enumerate(zip(sums[row].tolist(), sizes, strict=True)):
            found.rows[row, number] = past.row_log(count, seen)
            count += own
            seen += size
        past.add(kept[row], count)
    return found


def odds_of(model: Odds, survey: Survey, rows: slice) -> np.ndarray:
    """Indices into `fixed.chances` of some rows of a matrix: int32, shape (rows, width)."""
    exponents = model.exponents
    found = model.around().take(survey.patterns[rows])
    found += survey.columns[rows].astype(np.int32) * np.int32(exponents[COLUMN])
    weights = np.array([exponents[BEFORE], exponents[LAGGED]], np.int32)
    own = survey.rows[rows] * np.int32(exponents[ROW])
    own += (survey.scalars[rows] @ weights)[:, None]
    for number in range(own.shape[1]):
        found[:, number :: own.shape[1]] += own[:, number, None]
    return index_of(found, model)


def index_of(odds: np.ndarray, model: Odds) -> np.ndarray:
    """From sums of exponents times logarithms to indices into `fixed.chances`."""
    odds += fixed.MIDDLE * 32 + 16 - 64 * model.step
    odds >>= 5
    return odds


def fit(kept: np.ndarray, lag: int) -> tuple[Odds, Survey, float]:
    """The model that codes the positions of a matrix in the fewest bits, and that number."""
    count = int(kept.sum(dtype=np.int64))
    step = min(255, round(-8 * float(np.log2(max(count, 1) / kept.size))))
    survey = _survey(kept, lag, step)
    inputs, wanted, weights = _inputs(survey, kept)
    used = [i for i in range(8) if i == BIAS or np.any(inputs[i] != inputs[i][0])]
    exponents = np.zeros(len(used))
    while True:
        matrix = np.stack([inputs[i] for i in used], axis=1)
        base = -step / 8 * float(np.log(2))
        exponents, spread = _regression(matrix, wanted, weights, exponents, base)
        saved = exponents**2 / (2 * spread)
        least = int(saved.argmin())
        if saved[least] > _WORTH or len(used) == 1:
            break
        used.pop(least)
        exponents = np.delete(exponents, least)
    sent = [0] * 8
    for index, value in zip(used, exponents, strict=True):
        sent[index] = int(np.clip(np.rint(value * _UNIT), -128, 127))
    model = Odds(lag, step, tuple(sent))
    cost = np.log2(fixed.TOTAL / fixed.chances()).reshape(-1)
    bits = 0.0
    for rows in slices(kept.shape):
        odds = np.clip(odds_of(model, survey, rows), 0, 2 * fixed.MIDDLE)
        bits += float(cost.take(2 * odds + kept[rows]).sum())
    return model, survey, bits + 8 * len(model.write())


def slices(shape: tuple[int, int]) -> list[slice]:
    """Rows of a matrix, so many at a time that their arrays are small."""
    step = max(1, _CHUNK // shape[1])
    return [slice(at, min(at + step, shape[0])) for at in range(0, shape[0], step)]


def _inputs(survey: Survey, kept: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """What the odds of some symbols are made of, in nats, each float64 of shape (n,).

    Also which of them are kept, and how many each stands for: all that are kept, where they are
    few, and some of the others.
    """
    flat = kept.reshape(-1)
    ones, zeros = np.flatnonzero(flat), np.flatnonzero(flat == 0)
    steps = max(1, ones.size // _SAMPLE), max(1, zeros.size // _SAMPLE)
    some = np.concatenate([ones[:: steps[0]], zeros[:: steps[1]]])
    wanted = flat[some].astype(np.float64)
    weights = np.where(wanted > 0, steps[0], steps[1]).astype(np.float64)
    row, column = np.divmod(some, kept.shape[1])
    patterns = survey.patterns.reshape(-1)[some]
    around = Odds(0, 0, tuple(_UNIT * (i == AROUND) for i in range(8))).around()
    found: list[np.ndarray] = [np.empty(0)] * 8
    found[BIAS] = np.full(some.size, fixed.LOG_STEPS)
    found[COLUMN] = survey.columns.reshape(-1)[some]
    found[ROW] = survey.rows[row, column % survey.rows.shape[1]]
    found[BEFORE], found[LAGGED] = survey.scalars[row].T
    found[ABOVE] = (patterns & 1) * fixed.LOG_STEPS
    found[LAG] = (patterns >> 1 & 1) * fixed.LOG_STEPS
    found[AROUND] = around.take(patterns) / _UNIT
    scale = np.log(2) / fixed.LOG_STEPS
    return [part * scale for part in found], wanted, weights


def _regression(
    matrix: np.ndarray, wanted: np.ndarray, weights: np.ndarray, start: np.ndarray, base: float
) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression by Newton's steps: exponents and the variance of each."""
    found, precision = start, np.eye(matrix.shape[1])
    odds = base + matrix @ found
    loss = _loss(odds, wanted, weights, found)
    for _ in range(12):
        chance = 1 / (1 + np.exp(-odds))
        curve = weights * chance * (1 - chance)
        precision = matrix.T @ (matrix * curve[:, None]) + np.eye(found.size)
        move = np.linalg.solve(precision, matrix.T @ (weights * (wanted - chance)) - found)
        new = loss
        for _ in range(6):  # a full step may go too far
            odds = base + matrix @ (found + move)
            new = _loss(odds, wanted, weights, found + move)
            if new <= loss:
                break
            move /= 2
        found, gained, loss = found + move, loss - new, new
        if gained < 0.5:
            break
    return found, np.diag(np.linalg.inv(precision))


def _loss(
    odds: np.ndarray, wanted: np.ndarray, weights: np.ndarray, exponents: np.ndarray
) -> float:
    return float(weights @ (np.logaddexp(0, odds) - wanted * odds) + exponents @ exponents / 2)


def lag_of(kept: np.ndarray) -> int:
    """How far above a row the one is that it resembles most, beyond its density; 0: none."""
    height, width = kept.shape
    if height < 8:
        return 0
    some = kept[:, :: max(1, width // 256)].astype(np.float32)
    size = 2 * height
    found = np.fft.irfft((np.abs(np.fft.rfft(some, size, axis=0)) ** 2).sum(axis=1), size)
    sums = some.sum(axis=1)
    expected = np.fft.irfft(np.abs(np.fft.rfft(sums, size)) ** 2, size) / some.shape[1]
    excess = ((found - expected) / np.sqrt(np.maximum(expected, 0) + 1))[2 : height - 1]
    best = int(excess.argmax())
    return best + 2 if excess[best] > 4 else 0
