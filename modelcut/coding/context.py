"""A range coder whose probabilities follow from the neighbours that are decoded already.

Pruned matrices have rows (dead inputs) and columns (weak outputs) of very different density, and
weights that stand beside a kept one are kept more often. A block is taken as a matrix, or as its
transpose, and decoded stripe by stripe (a row), each stripe in some interleaved passes. First comes
whether each symbol is the common one. The odds of it are a product of powers, as in logistic
mixing (Mahoney 2005), of

    1                              the density of the block
    the column so far              against that density
    this row, in earlier passes    likewise, started from the rows before
    the rows before                likewise, older ones forgotten
    the row a lag before           likewise
    above; a lag above             2 where that symbol is another one than the common
    all around                     1 + a weighted count of such neighbours

with exponents that the encoder fits (iteratively reweighted least squares) and sends, a byte each.
The lag is sent too: the width of an image whose pixels are the rows, or the input channels of a
convolution. When all places are known, the symbols there follow under counts that adapt, on their
own or in the context of the nearest neighbour or of the column's balance. All is integers: both
sides must agree to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.coding import CodingError, fixed, ranged
from modelcut.coding.bits import Reader, varint

MOST_ALPHABET = 257
MOST_ROWS = 1 << 14
"""Of a block: each takes its time, however few symbols it has."""

_BIAS, _COLUMN, _ROW, _BEFORE, _LAGGED, _ABOVE, _LAG, _AROUND = range(8)
_UNIT = 16
"""What an exponent of 1 is written as."""
_TRANSPOSED, _OTHER_COMMON, _HAS_LAG = 1, 2, 4
_ALONE, _NEIGHBOUR, _BALANCE = range(3)
_MOST_KINDS = 32
"""Of symbols that are coded in contexts."""
_BOTH_VIEWS = 1 << 20
"""Larger blocks are coded as they are, not as the transpose."""
_LOOK = 1 << 20
"""Symbols that `promises` looks at."""
_CHUNK = 1 << 18
_SAMPLE = 1 << 15
_WORTH = 10 * 0.7
"""Nats that an exponent must save."""


def passes_of(height: int, width: int) -> int:
    """Passes a stripe is decoded in."""
    return max(1, min(8, width // 24, (1 << 13) // height))


def possible(size: int, width: int) -> list[bool]:
    """The views (False: as it is, True: transposed) that a block can be coded in."""
    if width < 2 or size % width or size < 2 * width:
        return []
    height = size // width
    return [
        turned
        for turned, (rows, columns) in ((False, (height, width)), (True, (width, height)))
        if 1 < rows <= MOST_ROWS and columns > 1
    ]


@dataclass(frozen=True)
class _Model:
    """What the encoder sends of the places."""

    lag: int
    step: int
    exponents: tuple[int, ...]

    def write(self) -> bytes:
        mask = sum(1 << i for i, value in enumerate(self.exponents) if value)
        sent = bytes(value & 0xFF for value in self.exponents if value)
        return bytes([self.step, mask]) + sent

    @classmethod
    def read(cls, reader: Reader, lag: int) -> _Model:
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
            self.exponents[_ABOVE] * up + self.exponents[_LAG] * lag + self.exponents[_BIAS]
        )
        found += self.exponents[_AROUND] * (logs[count << 12] + 4 * fixed.LOG_STEPS)
        return found.astype(np.int32)


class _Past:
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
        """Goes on to the next row."""
        self.columns += kept.astype(np.int32) << 16
        density = (count << 16) // self.width
        self.densities.append(density)
        self.recent += (density - self.recent) * 13 >> 5
        self.row += 1


@dataclass(frozen=True)
class _Survey:
    """All that the odds of a matrix are made of.

    Attributes:
        columns: int16, shape (height, width).
        patterns: uint8, shape (height, width).
        rows: int32, shape (height, passes).
        scalars: int32, shape (height, 2): `_BEFORE` and `_LAGGED`.
    """

    columns: np.ndarray
    patterns: np.ndarray
    rows: np.ndarray
    scalars: np.ndarray


def _survey(kept: np.ndarray, lag: int, step: int) -> _Survey:
    height, width = kept.shape
    past = _Past(height, width, lag, step)
    found = _Survey(
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


def _odds(model: _Model, survey: _Survey, rows: slice) -> np.ndarray:
    """Places in `fixed.chances` of some rows of a matrix: int32, shape (rows, width)."""
    exponents = model.exponents
    found = model.around().take(survey.patterns[rows])
    found += survey.columns[rows].astype(np.int32) * np.int32(exponents[_COLUMN])
    weights = np.array([exponents[_BEFORE], exponents[_LAGGED]], np.int32)
    own = survey.rows[rows] * np.int32(exponents[_ROW])
    own += (survey.scalars[rows] @ weights)[:, None]
    for number in range(own.shape[1]):
        found[:, number :: own.shape[1]] += own[:, number, None]
    return _index(found, model)


def _index(odds: np.ndarray, model: _Model) -> np.ndarray:
    """From sums of exponents times logarithms to places in `fixed.chances`."""
    odds += fixed.MIDDLE * 32 + 16 - 64 * model.step
    odds >>= 5
    return odds


def _fit(kept: np.ndarray, lag: int) -> tuple[_Model, _Survey, float]:
    """The model that makes the places of a matrix smallest, and the bits that they take."""
    count = int(kept.sum(dtype=np.int64))
    step = min(255, round(-8 * float(np.log2(max(count, 1) / kept.size))))
    survey = _survey(kept, lag, step)
    inputs, wanted, weights = _inputs(survey, kept)
    used = [i for i in range(8) if i == _BIAS or np.any(inputs[i] != inputs[i][0])]
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
    model = _Model(lag, step, tuple(sent))
    cost = np.log2(fixed.SHARES / fixed.chances()).reshape(-1)
    bits = 0.0
    for rows in _slices(kept.shape):
        odds = np.clip(_odds(model, survey, rows), 0, 2 * fixed.MIDDLE)
        bits += float(cost.take(2 * odds + kept[rows]).sum())
    return model, survey, bits + 8 * len(model.write())


def _slices(shape: tuple[int, int]) -> list[slice]:
    step = max(1, _CHUNK // shape[1])
    return [slice(at, min(at + step, shape[0])) for at in range(0, shape[0], step)]


def _inputs(survey: _Survey, kept: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
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
    around = _Model(0, 0, tuple(_UNIT * (i == _AROUND) for i in range(8))).around()
    found: list[np.ndarray] = [np.empty(0)] * 8
    found[_BIAS] = np.full(some.size, fixed.LOG_STEPS)
    found[_COLUMN] = survey.columns.reshape(-1)[some]
    found[_ROW] = survey.rows[row, column % survey.rows.shape[1]]
    found[_BEFORE], found[_LAGGED] = survey.scalars[row].T
    found[_ABOVE] = (patterns & 1) * fixed.LOG_STEPS
    found[_LAG] = (patterns >> 1 & 1) * fixed.LOG_STEPS
    found[_AROUND] = around.take(patterns) / _UNIT
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


def _lag(kept: np.ndarray) -> int:
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


class _Values:
    """The symbols at the places, row by row, under counts that adapt.

    Attributes:
        seen: symbol + 1 where one is known, 0 elsewhere; shape (height, width).
    """

    trust = 8
    """How many symbols of a context the counts of all weigh."""

    def __init__(self, shape: tuple[int, int], kinds: int, lag: int, way: int) -> None:
        self.kinds, self.lag, self.way = kinds, lag, way
        self.seen = np.zeros(shape, np.uint16)
        self.all = np.zeros(kinds, np.int64)
        contexts = {_ALONE: 0, _NEIGHBOUR: kinds + 1, _BALANCE: 5}[way]
        self.own = np.zeros((contexts, kinds), np.int64)
        self.high = np.zeros(shape[1], np.int32)
        self.count = np.zeros(shape[1], np.int32)
        self.row = 0

    def shares(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Of this row: a table of shares, and which line of it each column follows.

        Args:
            columns: int64, shape (m,), ascending.

        Returns:
            int64, shape (kinds,), and None; or shape (contexts, kinds), and shape (m,).
        """
        shares = (2 * self.all + 1) * fixed.SHARES // (2 * int(self.all.sum()) + self.kinds)
        shares = fixed.filled(np.maximum(shares, 1))
        if self.way == _ALONE:
            return shares, None
        total = self.own.sum(axis=1, keepdims=True) + self.trust
        table = (self.own * fixed.SHARES + self.trust * shares) // total
        table = fixed.filled(np.maximum(table, 1))
        return table, self._neighbours(columns) if self.way == _NEIGHBOUR else self._sides(columns)

    def _neighbours(self, columns: np.ndarray) -> np.ndarray:
        found = np.zeros(columns.size, np.uint16)
        for back in (1, self.lag, self.lag - 1, self.lag + 1, 2):
            if 0 < back <= self.row and (self.lag or back <= 2):
                found = np.where(found, found, self.seen[self.row - back, columns])
        return found

    def _sides(self, columns: np.ndarray) -> np.ndarray:
        high, count = self.high[columns], self.count[columns] + 2
        return np.minimum((2 * high + 2) * 5 // (2 * count), 4)

    def add(self, columns: np.ndarray, values: np.ndarray, lines: np.ndarray | None) -> None:
        """Goes on to the next row."""
        self.seen[self.row, columns] = values + 1
        self.all += np.bincount(values, minlength=self.kinds)
        if lines is not None:
            both = lines.astype(np.int64) * self.kinds + values
            self.own += np.bincount(both, minlength=self.own.size).reshape(self.own.shape)
        self.high[columns] += values >= self.kinds // 2
        self.count[columns] += 1
        self.row += 1


@dataclass(frozen=True)
class _Plan:
    """A view of a block, fitted.

    Attributes:
        kept: uint8, shape (height, width): which symbols are not the common one.
        model: of the places.
        survey: of the places.
        way: how the symbols at the places are coded.
        parts: those symbols, row by row, and what they are coded under.
        bits: of all, about.
    """

    turned: bool
    kept: np.ndarray
    model: _Model
    survey: _Survey
    way: int
    parts: list[tuple[np.ndarray, np.ndarray]]
    bits: float


def _planned(symbols: np.ndarray, alphabet: int, common: int, *, turned: bool) -> _Plan:
    if turned:
        symbols = np.ascontiguousarray(symbols.T)
    kept = (symbols != common).astype(np.uint8)
    model, survey, bits = _fit(kept, _lag(kept))
    kinds = alphabet - 1
    values = symbols - (symbols > common)
    ways = [_ALONE] if kinds < 2 or kinds > _MOST_KINDS else [_ALONE, _NEIGHBOUR, _BALANCE]
    tried = [(way, *_rows_of_values(values, kept, kinds, model.lag, way)) for way in ways]
    way, parts, more = min(tried, key=lambda found: found[2])
    return _Plan(turned, kept, model, survey, way, parts, bits + more)


def encode(symbols: np.ndarray, width: int, alphabet: int, common: int) -> bytes | None:
    """Codes a matrix; its shape and alphabet are for the decoder to know.

    Args:
        symbols: unsigned, shape (size,).
        width: of a row.
        alphabet: symbols are below it.
        common: the most frequent symbol.

    Returns:
        None where that cannot be.
    """
    views = possible(symbols.size, width)
    if not views or alphabet > MOST_ALPHABET:
        return None
    if symbols.size > _BOTH_VIEWS:
        views = views[:1]
    matrix = symbols.reshape(-1, width)
    plans = (_planned(matrix, alphabet, common, turned=turned) for turned in views)
    return _written(min(plans, key=lambda plan: plan.bits), common)


def _written(plan: _Plan, common: int) -> bytes:
    coder = ranged.stack().AnsCoder()
    family = ranged.family()
    for own, table in reversed(plan.parts):
        if table.ndim == 1:
            coder.encode_reverse(own, ranged.model(table))
        else:
            coder.encode_reverse(own, family, table / float(fixed.SHARES))
    kept = plan.kept
    passes = passes_of(*kept.shape)
    order = np.concatenate([np.arange(first, kept.shape[1], passes) for first in range(passes)])
    shares = fixed.chances() / fixed.SHARES
    for rows in reversed(_slices(kept.shape)):
        odds = _odds(plan.model, plan.survey, rows)[:, order].reshape(-1)
        own = kept[rows][:, order].reshape(-1).astype(np.int32)
        coder.encode_reverse(own, family, shares.take(odds, axis=0, mode="clip"))
    lag = plan.model.lag
    flags = _TRANSPOSED * plan.turned | _OTHER_COMMON * (common > 0) | _HAS_LAG * (lag > 0)
    head = bytes([flags | plan.way << 3])
    head += varint(common) if common else b""
    head += varint(lag) if lag else b""
    return head + plan.model.write() + ranged.written(coder)


def promises(places: np.ndarray, size: int, width: int) -> float:
    """Bits that rows, columns and neighbours of a block may save, from a look at its beginning.

    Args:
        places: int64, ascending: where the symbols are that are not the common one.
        size: of the block.
        width: of a row.
    """
    rows = min(size // width, max(2, _LOOK // width))
    some = places[: np.searchsorted(places, rows * width)]
    density = some.size / (rows * width)
    if not 0 < density < 1:
        return 0.0
    saved = 0.0
    for counts, each in (
        (np.bincount(some // width, minlength=rows), width),
        (np.bincount(some % width, minlength=width), rows),
    ):
        expected = each * density
        spread = ((counts - expected) ** 2).sum() / (expected * (1 - density))
        saved += max(0.0, spread - counts.size - 3 * (2 * counts.size) ** 0.5)
    kept = np.zeros(rows * width, bool)
    kept[some] = True
    for back in (1, width):
        both = np.count_nonzero(kept[back:] & kept[:-back])
        expected = (kept.size - back) * density**2
        saved += max(0.0, (both - expected) ** 2 / (expected + 1) - 9)
    return saved * size / (rows * width) / (2 * float(np.log(2)))


def _rows_of_values(
    values: np.ndarray, kept: np.ndarray, kinds: int, lag: int, way: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
    """The symbols at the places, row by row, with what they are coded under, and their bits."""
    if kinds < 2:
        return [], 0.0
    model = _Values(kept.shape, kinds, lag, way)
    parts, bits = [], 0.0
    for row in range(kept.shape[0]):
        columns = np.flatnonzero(kept[row])
        if not columns.size:
            model.row += 1
            continue
        own = values[row, columns].astype(np.int32)
        table, lines = model.shares(columns)
        if lines is not None:
            table = table[lines]
            hit = table[np.arange(own.size), own]
        else:
            hit = table[own]
        bits += float((np.log2(fixed.SHARES) - np.log2(hit)).sum())
        parts.append((own, table))
        model.add(columns, own, lines)
    return parts, bits


def decode(reader: Reader, size: int, width: int, alphabet: int) -> np.ndarray:
    """The inverse of `encode`; reads to the end of the stream.

    Returns:
        uint16, shape (size,).

    Raises:
        CodingError: no encoder wrote this.
    """
    flags = reader.byte()
    turned, way = bool(flags & _TRANSPOSED), flags >> 3
    if turned not in possible(size, width) or way > _BALANCE or alphabet > MOST_ALPHABET:
        raise CodingError("a matrix is of another shape than it should be")
    shape = (width, size // width) if turned else (size // width, width)
    common = reader.varint(alphabet - 1) if flags & _OTHER_COMMON else 0
    lag = reader.varint(shape[0] - 1) if flags & _HAS_LAG else 0
    kinds = alphabet - 1
    if kinds > _MOST_KINDS and way != _ALONE:
        raise CodingError("contexts are out of range")
    model = _Model.read(reader, lag)
    coder = ranged.started(reader)
    kept = _decode_places(coder, model, shape)
    found = np.full(shape, common, np.uint16)
    if kinds == 1:
        found[kept != 0] = 1 - common
    elif kinds > 1:
        _decode_values(coder, _Values(shape, kinds, lag, way), kept, common, found)
    ranged.ended(coder)
    return np.ascontiguousarray(found.T if turned else found).reshape(-1)


def _decode_places(coder: Any, model: _Model, shape: tuple[int, int]) -> np.ndarray:
    """Which symbols are not the common one: uint8, of the shape."""
    past = _Past(*shape, model.lag, model.step)
    kept = np.zeros(shape, np.uint8)
    family, shares = ranged.family(), fixed.chances() / fixed.SHARES
    exponents, around = model.exponents, model.around()
    sizes = [len(range(first, shape[1], past.passes)) for first in range(past.passes)]
    for row in range(shape[0]):
        odds = past.column_logs()
        odds += past.base
        odds *= exponents[_COLUMN]
        odds += around.take(past.pattern(kept))
        before, lagged = past.scalars()
        fixed_part = before * exponents[_BEFORE] + lagged * exponents[_LAGGED]
        count = seen = 0
        for first, size in enumerate(sizes):
            own = odds[first :: past.passes]
            own = own + np.int32(fixed_part + past.row_log(count, seen) * exponents[_ROW])
            table = shares.take(_index(own, model), axis=0, mode="clip")
            got = coder.decode(family, table)
            kept[row, first :: past.passes] = got
            count += int(got.sum())
            seen += size
        past.add(kept[row], count)
    return kept


def _decode_values(
    coder: Any, model: _Values, kept: np.ndarray, common: int, found: np.ndarray
) -> None:
    family = ranged.family()
    for row in range(kept.shape[0]):
        columns = np.flatnonzero(kept[row])
        if not columns.size:
            model.row += 1
            continue
        table, lines = model.shares(columns)
        if lines is None:
            own = coder.decode(ranged.model(table), columns.size)
        else:
            own = coder.decode(family, table[lines] / float(fixed.SHARES))
        found[row, columns] = own + (own >= common)
        model.add(columns, own, lines)
