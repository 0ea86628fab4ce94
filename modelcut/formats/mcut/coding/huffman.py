"""Canonical Huffman codes of limited length, written and read many symbols at a time.

A stream is distributed over lanes in turn (symbol t goes to lane t mod L). Each lane's bits are
contiguous, so that all lanes are decoded in step: one table look-up of `LIMIT` bits gives every
lane its next symbol and how far to go (canonical codes: Schwartz and Kallick 1964; limited
lengths by package-merge: Larmore and Hirschberg 1990).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from modelcut.formats.mcut.coding import CodingError
from modelcut.formats.mcut.coding.bits import ByteReader, pack, varint, width_of

LIMIT = 12
"""Longest code: a table of 4,096 entries fits into the L1 cache."""

MOST_SYMBOLS = 1 << LIMIT

_LANE_SYMBOLS = 256
_MOST_LANES = 4096
_FEW_LANES = 8


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Lengths of optimal codes of at most `LIMIT` bits; 0 for symbols that do not occur.

    Args:
        counts: int, shape (k,), k at most 2^LIMIT.
    """
    used = np.flatnonzero(counts)
    lengths = np.zeros(counts.size, np.uint8)
    if used.size == 1:
        lengths[used] = 1
    if used.size < 2:
        return lengths
    weights = counts[used].tolist()
    found = _by_tree(weights)
    if max(found) > LIMIT:
        found = _by_package_merge(weights)
    lengths[used] = found
    return lengths


def _by_tree(weights: Sequence[int]) -> list[int]:
    heap = [(weight, index) for index, weight in enumerate(weights)]
    heapq.heapify(heap)
    parent = [0] * (2 * len(weights) - 1)
    for node in range(len(weights), len(parent)):
        (one, a), (two, b) = heapq.heappop(heap), heapq.heappop(heap)
        parent[a] = parent[b] = node
        heapq.heappush(heap, (one + two, node))
    depth = [0] * len(parent)
    for node in range(len(parent) - 2, -1, -1):
        depth[node] = depth[parent[node]] + 1
    return depth[: len(weights)]


def _by_package_merge(weights: Sequence[int]) -> list[int]:
    leaves: list[tuple[int, tuple[int, ...]]]
    leaves = sorted((weight, (index,)) for index, weight in enumerate(weights))
    row = leaves
    for _ in range(LIMIT - 1):
        pairs = [
            (row[i][0] + row[i + 1][0], row[i][1] + row[i + 1][1])
            for i in range(0, len(row) - 1, 2)
        ]
        row = sorted(leaves + pairs, key=lambda item: item[0])
    lengths = [0] * len(weights)
    for _, members in row[: 2 * len(weights) - 2]:
        for index in members:
            lengths[index] += 1
    return lengths


def canonical(lengths: np.ndarray) -> np.ndarray:
    """The codes, uint64, that go with the lengths: by length, then by symbol."""
    codes = np.zeros(lengths.size, np.uint64)
    code = previous = 0
    for symbol in np.lexsort((np.arange(lengths.size), lengths)):
        length = int(lengths[symbol])
        if length:
            code <<= length - previous
            codes[symbol] = code
            code += 1
            previous = length
    return codes


def lane_count(size: int) -> int:
    """How many lanes a stream of this many symbols is dealt out to."""
    return min(_MOST_LANES, max(1, size // _LANE_SYMBOLS))


def bits_of(counts: np.ndarray, lengths: np.ndarray) -> int:
    """Bits of a stream without its tables."""
    if np.count_nonzero(lengths) < 2:
        return 0
    return int(counts @ lengths.astype(np.int64))


def size_of(values: np.ndarray, lengths: np.ndarray) -> int:
    """Bytes that `encode` makes of the same."""
    if np.count_nonzero(lengths) < 2:
        return 0
    lanes = lane_count(values.size)
    steps, more = divmod(values.size, lanes)
    used = lengths[lengths > 0]
    if used.min() == used.max():  # as of clusters of one size
        ends = np.full(lanes, steps * int(used[0]), np.int64)
        ends[:more] += used[0]
    else:
        sizes = lengths.astype(np.uint8).take(values, mode="clip")
        ends = sizes[: steps * lanes].reshape(steps, lanes).sum(axis=0, dtype=np.int64)
        ends[:more] += sizes[steps * lanes :]
    return len(_lanes(ends)) + (int(ends.sum()) + 7) // 8


def encode(values: np.ndarray, lengths: np.ndarray) -> bytes:
    """Codes a stream whose length and code lengths the decoder will know.

    Args:
        values: unsigned, shape (n,), each with a code.
        lengths: from `code_lengths`.
    """
    if np.count_nonzero(lengths) < 2:  # the table says it all
        return b""
    lanes = lane_count(values.size)
    steps = -(-values.size // lanes)
    if lengths.size <= _MOST_PAIRED:
        codes, sizes = _in_pairs(values, lengths, steps, lanes)
    else:
        codes, sizes = _in_lanes(values, lengths, steps, lanes)
    ends = sizes.sum(axis=1, dtype=np.int64)
    words = _join(
        codes.reshape(-1), sizes.reshape(-1), halvings=2 if codes.shape[1] == steps else 1
    )
    total = int(ends.sum())
    return _lanes(ends) + words.astype(">u8").tobytes()[: (total + 7) // 8]


def _lanes(ends: np.ndarray) -> bytes:
    """How many bits each lane takes, where there are several."""
    if ends.size == 1:
        return b""
    least = int(ends.min())
    spread = ends - least
    width = width_of(spread)
    return varint(least) + varint(width) + pack(spread, width)


_MOST_PAIRED = 255
"""Symbols up to which two, and one that stands for nothing, have a table of 65,536 entries."""


def _in_pairs(
    values: np.ndarray, lengths: np.ndarray, steps: int, lanes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes (uint32) and sizes (uint8) of two symbols at a time, shape (lanes, ceil(steps / 2))."""
    nothing = lengths.size
    full = np.full((steps + steps % 2, lanes), nothing, np.uint8)
    full.reshape(-1)[: values.size] = values
    order = np.ascontiguousarray(full.T)
    size = np.append(lengths, 0).astype(np.uint8)
    code = np.append(canonical(lengths), np.uint64(0)).astype(np.uint32)
    pair_size, pair_code = np.zeros((256, 256), np.uint8), np.zeros((256, 256), np.uint32)
    used = nothing + 1
    pair_size[:used, :used] = size[:, None] + size[None, :]
    pair_code[:used, :used] = code[:, None] << size[None, :] | code[None, :]
    # The first of two symbols is the upper half, whatever the order of bytes.
    pairs = order.view(">u2").astype(np.uint16)
    codes = pair_code.reshape(-1).take(pairs, mode="clip")
    return codes, pair_size.reshape(-1).take(pairs, mode="clip")


def _in_lanes(
    values: np.ndarray, lengths: np.ndarray, steps: int, lanes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Code (uint64) and size (uint8) of each symbol, shape (lanes, steps)."""
    full = np.zeros((steps, lanes), values.dtype)
    full.reshape(-1)[: values.size] = values
    table = lengths.astype(np.uint8)
    order = np.ascontiguousarray(full.T)
    sizes = table[order]
    codes = canonical(lengths)[order]
    missing = steps * lanes - values.size
    if missing:  # the last lanes are one symbol shorter
        sizes[lanes - missing :, -1] = 0
        codes[lanes - missing :, -1] = 0
    return codes, sizes


def _join(codes: np.ndarray, sizes: np.ndarray, *, halvings: int) -> np.ndarray:
    """Codes of `sizes` bits, one behind the other, as 64-bit words, the highest bit first.

    Args:
        codes: uint32 or uint64, shape (n,).
        sizes: uint8, shape (n,).
        halvings: how often two neighbours fit one word: 48 bits hold four codes of at most 12.
    """
    for _ in range(halvings):
        if codes.size % 2:
            codes, sizes = np.append(codes, codes.dtype.type(0)), np.append(sizes, np.uint8(0))
        upper = codes[::2].astype(np.uint64)
        upper <<= sizes[1::2]
        upper |= codes[1::2]
        codes, sizes = upper, sizes[::2] + sizes[1::2]
    sizes = sizes.astype(np.uint64)
    starts = np.cumsum(sizes)
    total = int(starts[-1]) if starts.size else 0
    starts -= sizes
    if total == 0:
        return np.zeros(0, np.uint64)
    top = np.where(sizes > 0, codes << (np.uint64(64) - np.maximum(sizes, np.uint64(1))), 0)
    shift = starts & np.uint64(63)
    word = (starts >> np.uint64(6)).astype(np.int64)
    kept = word < -(-total // 64)
    top, shift, word = top[kept], shift[kept], word[kept]
    # A code is shorter than a word, so that one begins in every word, and only the last spills.
    first = np.flatnonzero(np.diff(word, prepend=-1))
    words = np.bitwise_or.reduceat(top >> shift, first)
    spill = (top << np.uint64(1)) << (np.uint64(63) - shift)
    last = np.append(first[1:], word.size) - 1
    words[1:] |= spill[last[:-1]]
    rest = int(spill[-1])
    return np.append(words, np.uint64(rest)) if len(words) * 64 < total else words


def decode(reader: ByteReader, size: int, lengths: np.ndarray) -> np.ndarray:
    """The inverse of `encode`; reads to the end of the stream.

    Args:
        reader: at the beginning of the stream, which nothing follows.
        size: number of symbols.
        lengths: of the codes, which must be a full set, or a single one, which takes no bits.

    Returns:
        uint16, shape (size,).

    Raises:
        CodingError: no encoder wrote this.
    """
    used = np.flatnonzero(lengths)
    if used.size < 2:
        if size and not used.size:
            raise CodingError("symbols have no codes")
        reader.end()
        return np.full(size, used[0] if size else 0, np.uint16)
    table = _table(lengths)
    lanes = lane_count(size)
    steps = -(-size // lanes)
    if lanes == 1:
        ends = None
    else:
        least = reader.varint(1 << 40)
        width = reader.varint(40)
        ends = least + reader.fields(lanes, width)
    raw = reader.rest()
    total = int(ends.sum()) if ends is not None else 8 * len(raw)
    if (total + 7) // 8 != len(raw) or (size and not len(raw)):
        raise CodingError("the length of a stream does not match its lanes")
    if lanes < _FEW_LANES:
        return _decode_few(raw, size, ends, table)
    assert ends is not None
    return _decode_many(raw, size, steps, ends, table)


def _decode_many(
    raw: memoryview, size: int, steps: int, ends: np.ndarray, table: np.ndarray
) -> np.ndarray:
    lanes = ends.size
    padded = np.zeros(len(raw) + 4, np.uint32)
    padded[: len(raw)] = np.frombuffer(raw, np.uint8)
    window = padded[:-3] << np.uint32(24)
    window |= padded[1:-2] << np.uint32(16)
    window |= padded[2:-1] << np.uint32(8)
    window |= padded[3:]
    at = np.cumsum(ends) - ends
    stop = at + ends
    found = np.empty((steps, lanes), np.uint16)
    byte, low = np.empty(lanes, np.int64), np.empty(lanes, np.int64)
    bits, shift = np.empty(lanes, np.uint32), np.empty(lanes, np.uint32)
    mask = np.uint32((1 << LIMIT) - 1)
    for step in range(steps):
        count = lanes if step < steps - 1 else size - step * lanes
        if count < lanes:
            at_, byte, low = at[:count], byte[:count], low[:count]
            bits, shift = bits[:count], shift[:count]
        else:
            at_ = at
        np.right_shift(at_, 3, out=byte)
        np.take(window, byte, out=bits, mode="clip")
        np.bitwise_and(at_, 7, out=low)
        np.subtract(32 - LIMIT, low, out=shift, casting="unsafe")
        np.right_shift(bits, shift, out=bits)
        np.bitwise_and(bits, mask, out=bits)
        row = found[step, :count]
        np.take(table, bits, out=row, mode="clip")
        np.bitwise_and(row, 15, out=low, casting="unsafe")
        at_ += low
    if not np.array_equal(at, stop):
        raise CodingError("a lane does not end where it should")
    return found.reshape(-1)[:size] >> np.uint16(4)


def _decode_few(
    raw: memoryview, size: int, ends: np.ndarray | None, table: np.ndarray
) -> np.ndarray:
    """Short streams, whose lanes are too few for array operations to pay."""
    entries = table.tolist()
    data = bytes(raw) + b"\0\0\0\0"
    lanes = 1 if ends is None else ends.size
    found = np.zeros(size, np.uint16)
    start = 0
    for lane in range(lanes):
        at = start
        symbols = []
        for _ in range(-(-(size - lane) // lanes)):
            byte = at >> 3
            if byte >= len(raw):
                raise CodingError("a stream ends too soon")
            piece = int.from_bytes(data[byte : byte + 4], "big")
            entry = entries[piece >> (32 - LIMIT - (at & 7)) & ((1 << LIMIT) - 1)]
            symbols.append(entry >> 4)
            at += entry & 15
        if ends is not None and at - start != ends[lane]:
            raise CodingError("a lane does not end where it should")
        found[lane::lanes] = symbols
        start = at
    if (start + 7) // 8 != len(raw):
        raise CodingError("a stream does not end where it should")
    return found


def _table(lengths: np.ndarray) -> np.ndarray:
    """All strings of `LIMIT` bits -> (symbol << 4 | length) of the code that they begin with."""
    used = lengths[lengths > 0].astype(np.int64)
    if lengths.size > MOST_SYMBOLS or int(used.max()) > LIMIT:
        raise CodingError("codes are too long")
    if int(np.left_shift(1, LIMIT - used).sum()) != 1 << LIMIT:
        raise CodingError("codes are not a complete prefix code")
    order = np.lexsort((np.arange(lengths.size), lengths))
    order = order[lengths[order] > 0]
    spans = np.left_shift(1, LIMIT - lengths[order].astype(np.int64))
    return np.repeat((order << 4 | lengths[order]).astype(np.uint16), spans)
