"""A range coder whose probabilities follow from the neighbours that are decoded already.

Pruned matrices have rows (dead inputs) and columns (weak outputs) of very different density, and
weights that stand beside a kept one are kept more often. A block is taken as a matrix, or as its
transpose, and decoded stripe by stripe (a row), each stripe in some interleaved passes: first,
whether each symbol is the common one (`places`), then, when these are known, the symbols there
(`adaptive`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.formats.mcut.coding import CodingError, adaptive, fixed, places, ranged
from modelcut.formats.mcut.coding.bits import ByteReader, varint

MOST_ALPHABET = 257
MOST_ROWS = 1 << 14
"""Of a block: each takes its time, however few symbols it has."""

_TRANSPOSED, _OTHER_COMMON, _HAS_LAG = 1, 2, 4
_BOTH_VIEWS = 1 << 20
"""Larger blocks are coded as they are, not as the transpose."""
_LOOK = 1 << 20
"""Symbols that `promises` looks at."""


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
class _Plan:
    """A view of a block, fitted.

    Attributes:
        kept: uint8, shape (height, width): which symbols are not the common one.
        model: of the positions.
        survey: of the positions.
        way: how the symbols at the positions are coded.
        parts: those symbols, row by row, and what they are coded under.
        bits: of all, about.
    """

    turned: bool
    kept: np.ndarray
    model: places.Odds
    survey: places.Survey
    way: int
    parts: list[tuple[np.ndarray, np.ndarray]]
    bits: float


def _planned(symbols: np.ndarray, alphabet: int, common: int, *, turned: bool) -> _Plan:
    if turned:
        symbols = np.ascontiguousarray(symbols.T)
    kept = (symbols != common).astype(np.uint8)
    model, survey, bits = places.fit(kept, places.lag_of(kept))
    kinds = alphabet - 1
    values = symbols - (symbols > common)
    ways = [adaptive.ALONE]
    if 2 <= kinds <= adaptive.MOST_KINDS:
        ways += [adaptive.NEIGHBOUR, adaptive.BALANCE]
    tried = [(way, *adaptive.rows_of(values, kept, kinds, model.lag, way)) for way in ways]
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
            coder.encode_reverse(own, family, table / float(fixed.TOTAL))
    kept = plan.kept
    passes = places.passes_of(*kept.shape)
    order = np.concatenate([np.arange(first, kept.shape[1], passes) for first in range(passes)])
    frequencies = fixed.chances() / fixed.TOTAL
    for rows in reversed(places.slices(kept.shape)):
        odds = places.odds_of(plan.model, plan.survey, rows)[:, order].reshape(-1)
        own = kept[rows][:, order].reshape(-1).astype(np.int32)
        coder.encode_reverse(own, family, frequencies.take(odds, axis=0, mode="clip"))
    lag = plan.model.lag
    flags = _TRANSPOSED * plan.turned | _OTHER_COMMON * (common > 0) | _HAS_LAG * (lag > 0)
    head = bytes([flags | plan.way << 3])
    head += varint(common) if common else b""
    head += varint(lag) if lag else b""
    return head + plan.model.write() + ranged.written(coder)


def promises(others: np.ndarray, size: int, width: int) -> float:
    """Bits that rows, columns and neighbours of a block may save, from a look at its beginning.

    Args:
        others: int64, ascending: where the symbols are that are not the common one.
        size: of the block.
        width: of a row.
    """
    rows = min(size // width, max(2, _LOOK // width))
    some = others[: np.searchsorted(others, rows * width)]
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


def decode(reader: ByteReader, size: int, width: int, alphabet: int) -> np.ndarray:
    """The inverse of `encode`; reads to the end of the stream.

    Returns:
        uint16, shape (size,).

    Raises:
        CodingError: no encoder wrote this.
    """
    flags = reader.byte()
    turned, way = bool(flags & _TRANSPOSED), flags >> 3
    if turned not in possible(size, width) or way > adaptive.BALANCE or alphabet > MOST_ALPHABET:
        raise CodingError("a matrix has the wrong shape")
    shape = (width, size // width) if turned else (size // width, width)
    common = reader.varint(alphabet - 1) if flags & _OTHER_COMMON else 0
    lag = reader.varint(shape[0] - 1) if flags & _HAS_LAG else 0
    kinds = alphabet - 1
    if kinds > adaptive.MOST_KINDS and way != adaptive.ALONE:
        raise CodingError("contexts are out of range")
    model = places.Odds.read(reader, lag)
    coder = ranged.started(reader)
    kept = _decode_places(coder, model, shape)
    found = np.full(shape, common, np.uint16)
    if kinds == 1:
        found[kept != 0] = 1 - common
    elif kinds > 1:
        _decode_values(coder, adaptive.Values(shape, kinds, lag, way), kept, common, found)
    ranged.ended(coder)
    return np.ascontiguousarray(found.T if turned else found).reshape(-1)


def _decode_places(coder: Any, model: places.Odds, shape: tuple[int, int]) -> np.ndarray:
    """Which symbols are not the common one: uint8, of the shape."""
    past = places.Past(*shape, model.lag, model.step)
    kept = np.zeros(shape, np.uint8)
    family, frequencies = ranged.family(), fixed.chances() / fixed.TOTAL
    exponents, around = model.exponents, model.around()
    sizes = [len(range(first, shape[1], past.passes)) for first in range(past.passes)]
    for row in range(shape[0]):
        odds = past.column_logs()
        odds += past.base
        odds *= exponents[places.COLUMN]
        odds += around.take(past.pattern(kept))
        before, lagged = past.scalars()
        fixed_part = before * exponents[places.BEFORE] + lagged * exponents[places.LAGGED]
        count = seen = 0
        for first, size in enumerate(sizes):
            own = odds[first :: past.passes]
            own = own + np.int32(fixed_part + past.row_log(count, seen) * exponents[places.ROW])
            table = frequencies.take(places.index_of(own, model), axis=0, mode="clip")
            got = coder.decode(family, table)
            kept[row, first :: past.passes] = got
            count += int(got.sum())
            seen += size
        past.add(kept[row], count)
    return kept


def _decode_values(
    coder: Any, model: adaptive.Values, kept: np.ndarray, common: int, found: np.ndarray
) -> None:
    family = ranged.family()
    for row in range(kept.shape[0]):
        columns = np.flatnonzero(kept[row])
        if not columns.size:
            model.row += 1
            continue
        table, lines = model.frequencies(columns)
        if lines is None:
            own = coder.decode(ranged.model(table), columns.size)
        else:
            own = coder.decode(family, table[lines] / float(fixed.TOTAL))
        found[row, columns] = own + (own >= common)
        model.add(columns, own, lines)
