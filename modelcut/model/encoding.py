"""How a tensor's values are restricted and could be written: the single truth about it.

An encoding is a set of permitted arrays. The trainer projects onto it, the packer writes codes
from it, the report counts from it; none of them knows which step made it. Encodings compose:
`Sparse(Codebook(...))` keeps zeros exactly zero and shares the values of the rest.

Values are always held as the floats that the file stores; codes are recovered from them exactly.
Arrays of parameters (`scale`, `zero_point`) broadcast against the tensor: each axis has length 1,
the tensor's own length, or, on the grouped axis, one entry a group.

Large tensors are walked in blocks of rows (axis 0): `rows` says which rows `values` are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from modelcut.arrays import floats
from modelcut.arrays.blocks import ALL


class Encoding(ABC):
    """A restriction on the values of one tensor."""

    kind: ClassVar[str]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that compose this encoding, outermost first: ("sparse", "affine")."""
        return (self.kind,)

    @property
    def label(self) -> str:
        """A few words for a table, such as "sparse, int8"."""
        return self.kinds[0]

    @property
    def symbols(self) -> int | None:
        """How many codes there are, or None where values are not coded."""
        return None

    @abstractmethod
    def project(
        self, values: np.ndarray, rows: slice = ALL, like: np.ndarray | None = None
    ) -> np.ndarray:
        """The nearest permitted values, in the dtype of `values`; idempotent.

        Args:
            values: floats, the given rows of the tensor.
            rows: which rows of axis 0 `values` are.
            like: an array whose zeros are to be kept (by `Sparse`); None: `values` itself.
        """

    def codes(self, values: np.ndarray, rows: slice = ALL) -> np.ndarray:
        """Unsigned codes, in 0 .. `symbols` - 1, of values that the encoding permits.

        Raises:
            TypeError: the encoding has no codes (`symbols` is None).
        """
        raise TypeError(f"{self.kind} values have no codes")

    def coded(self, values: np.ndarray, rows: slice = ALL) -> tuple[np.ndarray, np.ndarray | None]:
        """The nearest permitted values and their codes (None: they have none), in one go."""
        nearest = self.project(values, rows)
        return nearest, None if self.symbols is None else self.codes(nearest, rows)

    def decode(self, codes: np.ndarray, dtype: np.dtype, rows: slice = ALL) -> np.ndarray:
        """The inverse of `codes`, bit for bit in `dtype`."""
        raise TypeError(f"{self.kind} values have no codes")

    def bits(self, size: int, nonzeros: int, itemsize: int) -> int:
        """Bits of a plain fixed-length writing, parameters counted.

        Args:
            size: number of values.
            nonzeros: how many of them are not zero.
            itemsize: bytes of one uncoded value.
        """
        del nonzeros
        width = itemsize * 8 if self.symbols is None else _width(self.symbols)
        return size * width + self.side_bits()

    def side_bits(self) -> int:
        """Bits of the parameters that go with the codes."""
        return 0

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Plain data and small arrays, from which `from_record` makes the encoding again."""


@dataclass(frozen=True)
class Dense(Encoding):
    """No restriction but the precision of a float type.

    Attributes:
        precision: "", "float16" or "bfloat16": the values are exact in that type.
    """

    kind: ClassVar[str] = "dense"
    precision: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.precision or self.kind,)

    def project(
        self, values: np.ndarray, rows: slice = ALL, like: np.ndarray | None = None
    ) -> np.ndarray:
        if not self.precision:
            return values
        rounded = values.astype(_float_type(self.precision)).astype(values.dtype)
        return rounded + np.zeros((), values.dtype)  # no -0.0

    def bits(self, size: int, nonzeros: int, itemsize: int) -> int:
        return size * (16 if self.precision else itemsize * 8)

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind, "precision": self.precision}


@dataclass(frozen=True)
class Fixed(Dense):
    """Values whose meaning Keras keeps elsewhere, such as integer codes beside their scales.

    Written as they are, to the bit; no step can follow. The layer's configuration tells it again
    when the file is read, so that no record of it is kept.

    Attributes:
        held: how Keras holds the values: "int8", "int4, 2 a byte", "float8 when run".
    """

    held: str = ""

    @property
    def label(self) -> str:
        return f"{self.held} (Keras)"


@dataclass(frozen=True)
class Sparse(Encoding):
    """Zeros stay zero; what is not zero follows `inner`.

    The mask is not stored: it is where the tensor's values are zero.

    Attributes:
        inner: the encoding of the values that are kept.
        pattern: how the zeros lie: "" (anywhere), "n:m", "block RxC", "rows", "columns".
    """

    kind: ClassVar[str] = "sparse"
    inner: Encoding = field(default_factory=Dense)
    pattern: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.kind, *self.inner.kinds)

    @property
    def label(self) -> str:
        inner = "" if self.inner == Dense() else f", {self.inner.label}"
        return f"sparse{f' {self.pattern}' if self.pattern else ''}{inner}"

    @property
    def symbols(self) -> int | None:
        return None if self.inner.symbols is None else self.inner.symbols + 1

    def project(
        self, values: np.ndarray, rows: slice = ALL, like: np.ndarray | None = None
    ) -> np.ndarray:
        kept = (values if like is None else like) != 0
        projected = self.inner.project(values, rows)
        # Not a product with the mask: that leaves -0.0 behind, which deflates worse.
        return floats.masked(projected, kept)

    def codes(self, values: np.ndarray, rows: slice = ALL) -> np.ndarray:
        return self._shifted(self.inner.codes(values, rows), values != 0)

    def coded(self, values: np.ndarray, rows: slice = ALL) -> tuple[np.ndarray, np.ndarray | None]:
        nearest, codes = self.inner.coded(values, rows)
        nearest = floats.masked(nearest, values != 0)
        # What is kept may be rounded to zero.
        return nearest, None if codes is None else self._shifted(codes, nearest != 0)

    def _shifted(self, codes: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Codes of `inner` a place up, for zeros to take code 0."""
        codes = codes.astype(np.result_type(codes.dtype, np.min_scalar_type(self.symbols or 0)))
        codes += 1
        codes *= kept
        return codes

    def decode(self, codes: np.ndarray, dtype: np.dtype, rows: slice = ALL) -> np.ndarray:
        kept = codes != 0
        inner = self.inner.decode(codes - kept, dtype, rows)
        return floats.masked(inner, kept)

    def bits(self, size: int, nonzeros: int, itemsize: int) -> int:
        return size + self.inner.bits(nonzeros, nonzeros, itemsize)

    def side_bits(self) -> int:
        return self.inner.side_bits()

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind, "inner": self.inner.record(), "pattern": self.pattern}


@dataclass(frozen=True, eq=False)
class Affine(Encoding):
    """Values on a uniform grid: `scale * (code - zero_point)` (Jacob et al. 2018, eq. 1).

    Attributes:
        width: bits a code, 2 to 8.
        scale: float32, broadcasts against the tensor (see the module); positive.
        zero_point: int32, like `scale`; None: symmetric, codes centred on zero.
        group: values a group along `group_axis`; 0: no groups.
        group_axis: the axis cut into groups.
    """

    kind: ClassVar[str] = "affine"
    width: int
    scale: np.ndarray
    zero_point: np.ndarray | None = None
    group: int = 0
    group_axis: int = 0

    @property
    def label(self) -> str:
        name = f"int{self.width}" if self.zero_point is None else f"uint{self.width}"
        return f"{name}, groups of {self.group}" if self.group else name

    @property
    def symbols(self) -> int:
        # The symmetric grid leaves out the lowest code, as int8 weights do in LiteRT.
        return (1 << self.width) - (self.zero_point is None)

    @property
    def _half(self) -> int:
        return (1 << (self.width - 1)) - 1

    def _grid(self, values: np.ndarray, rows: slice) -> tuple[np.ndarray, Any]:
        work = np.float64 if values.dtype == np.float64 else np.float32
        scale = self._spread(self.scale, values.shape, rows).astype(work)
        if self.zero_point is None:
            return scale, self._half
        return scale, self._spread(self.zero_point, values.shape, rows).astype(work)

    def _spread(self, parameter: np.ndarray, shape: tuple[int, ...], rows: slice) -> np.ndarray:
        """The part of a parameter that belongs to these rows, groups repeated."""
        if parameter.ndim == 0 or not shape:
            return parameter
        axis = self.group_axis % len(shape)
        if self.group and parameter.shape[axis] > 1:
            if axis == 0:
                start = rows.start or 0
                return parameter[np.arange(start, start + shape[0]) // self.group]
            parameter = np.repeat(parameter, self.group, axis=axis)
            parameter = parameter[(slice(None),) * axis + (slice(0, shape[axis]),)]
        return parameter if parameter.shape[0] == 1 else parameter[rows]

    def _steps(self, values: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray, Any]:
        """Steps from zero, that is codes less the zero point; whole numbers."""
        scale, zero = self._grid(values, rows)
        steps = values.astype(scale.dtype, copy=False) / scale
        np.rint(steps, out=steps)
        np.clip(steps, -zero, self.symbols - 1 - zero, out=steps)
        return steps, scale, zero

    def project(
        self, values: np.ndarray, rows: slice = ALL, like: np.ndarray | None = None
    ) -> np.ndarray:
        steps, scale, _ = self._steps(values, rows)
        return _on_grid(steps, scale, values.dtype)

    def codes(self, values: np.ndarray, rows: slice = ALL) -> np.ndarray:
        steps, _, zero = self._steps(values, rows)
        steps += zero
        return steps.astype(np.uint8)

    def coded(self, values: np.ndarray, rows: slice = ALL) -> tuple[np.ndarray, np.ndarray | None]:
        steps, scale, zero = self._steps(values, rows)
        codes = (steps + zero).astype(np.uint8)
        return _on_grid(steps, scale, values.dtype), codes

    def decode(self, codes: np.ndarray, dtype: np.dtype, rows: slice = ALL) -> np.ndarray:
        scale, zero = self._grid(np.empty(codes.shape, dtype), rows)
        steps = codes.astype(scale.dtype)
        steps -= zero
        return _on_grid(steps, scale, dtype)

    def side_bits(self) -> int:
        zeros = 0 if self.zero_point is None else self.zero_point.size * self.width
        return self.scale.size * 32 + zeros

    def record(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "width": self.width,
            "scale": self.scale,
            "zero_point": self.zero_point,
            "group": self.group,
            "group_axis": self.group_axis,
        }


@dataclass(frozen=True, eq=False)
class Binary(Encoding):
    """Sums of signed scales: each value is one of the 2^k sums of ±scale[0] … ±scale[k-1].

    Attributes:
        scale: float32, shape (k, ...): k bases (1: plain sign and scale, Rastegari et al. 2016,
            section 3.1), each of which broadcasts against the tensor.
    """

    kind: ClassVar[str] = "binary"
    scale: np.ndarray

    @property
    def label(self) -> str:
        return "binary" if self.scale.shape[0] == 1 else f"binary, {self.scale.shape[0]} bases"

    @property
    def symbols(self) -> int:
        return int(1 << self.scale.shape[0])

    def _levels(self, dtype: np.dtype, shape: tuple[int, ...], rows: slice) -> np.ndarray:
        """The value that each code stands for, shape (2^k, ...); bit i is the sign of base i."""
        levels = np.zeros((self.symbols,) + (1,) * (self.scale.ndim - 1))
        codes = np.arange(self.symbols).reshape(-1, *levels.shape[1:])
        for base, scale in enumerate(self.scale.astype(np.float64)):
            if scale.ndim and shape and scale.shape[0] > 1:
                scale = scale[rows]
            levels = levels + np.where(codes >> base & 1, scale, -scale)
        with np.errstate(over="ignore"):
            return levels.astype(dtype)

    def _ordered(
        self, dtype: np.dtype, shape: tuple[int, ...], rows: slice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Levels in ascending order, the limits between them, and the code of each."""
        levels = self._levels(dtype, shape, rows)
        order = np.argsort(levels.astype(np.float64), axis=0, kind="stable")
        levels = np.take_along_axis(levels, order, axis=0)
        wide = levels.astype(np.float64)
        limits = floats.rounded_down(wide[:-1] / 2 + wide[1:] / 2, dtype)
        return levels, limits, order.astype(np.uint8)

    def project(
        self, values: np.ndarray, rows: slice = ALL, like: np.ndarray | None = None
    ) -> np.ndarray:
        if self.symbols == 2:
            high = self._levels(values.dtype, values.shape, rows)[1]
            zero = np.zeros((), values.dtype)
            signed = values + zero  # neither takes nor makes -0.0
            np.copysign(high, signed, out=signed)
            signed += zero
            return signed
        if self.scale[0].size == 1:
            return _levels_cut(self, values.dtype).pick(values)
        levels, limits, _ = self._ordered(values.dtype, values.shape, rows)
        return _of_cells(levels, _above(values, limits))

    def codes(self, values: np.ndarray, rows: slice = ALL) -> np.ndarray:
        if self.symbols == 2:
            return (values >= 0).view(np.uint8)
        _, limits, order = self._ordered(values.dtype, values.shape, rows)
        if self.scale[0].size == 1:
            return order.reshape(-1)[_levels_cut(self, values.dtype).places(values)]
        return _of_cells(order, _above(values, limits))

    def decode(self, codes: np.ndarray, dtype: np.dtype, rows: slice = ALL) -> np.ndarray:
        levels = self._levels(dtype, codes.shape, rows)
        return _of_cells(levels, codes)

    def side_bits(self) -> int:
        return self.scale.size * 32

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind, "scale": self.scale}


@dataclass(frozen=True, eq=False)
class Codebook(Encoding):
    """Shared values: each is one of the centres (Han et al. 2016, section 3).

    Attributes:
        centres: float32 (float64 for float64 tensors), shape (k,), ascending, distinct, finite.
    """

    kind: ClassVar[str] = "codebook"
    centres: np.ndarray

    @property
    def label(self) -> str:
        return f"{self.symbols} shared values"

    @property
    def symbols(self) -> int:
        return int(self.centres.size)

    def project(
        self, values: np.ndarray, rows: slice = ALL, like: np.ndarray | None = None
    ) -> np.ndarray:
        return _cuts(self, values.dtype).pick(values)

    def codes(self, values: np.ndarray, rows: slice = ALL) -> np.ndarray:
        return _cuts(self, values.dtype).places(values)

    def coded(self, values: np.ndarray, rows: slice = ALL) -> tuple[np.ndarray, np.ndarray | None]:
        codes = self.codes(values, rows)
        return self.decode(codes, values.dtype), codes

    def decode(self, codes: np.ndarray, dtype: np.dtype, rows: slice = ALL) -> np.ndarray:
        return self.centres.astype(dtype).take(codes)

    def side_bits(self) -> int:
        return self.centres.size * 32

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind, "centres": self.centres}


def _on_grid(steps: np.ndarray, scale: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Steps from zero as values; overwrites them."""
    steps *= scale
    # Zero times a scale may be -0.0, which deflates worse and compares badly.
    steps += 0.0
    return steps.astype(dtype, copy=False)


def _above(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """How many of the limits, each a number a cell, are below each value."""
    above = np.zeros(values.shape, np.uint8)
    for limit in limits:
        above += values > limit
    return above


def _of_cells(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """`table[index]`, a table a cell: shape (n, ...), which broadcasts against the index."""
    flat = index.astype(np.intp)
    if table[0].size > 1:
        flat *= table[0].size
        flat += np.arange(table[0].size).reshape(table.shape[1:])
    return table.reshape(-1).take(flat)


@lru_cache(maxsize=8)
def _levels_cut(encoding: Binary, dtype: np.dtype) -> floats.Cuts:
    """The limits between the levels of a whole tensor."""
    levels, limits, _ = encoding._ordered(dtype, (), ALL)
    return floats.Cuts(limits.reshape(-1), levels.reshape(-1))


@lru_cache(maxsize=8)
def _cuts(book: Codebook, dtype: np.dtype) -> floats.Cuts:
    """The middles between the centres."""
    low, high = book.centres[:-1].astype(np.float64), book.centres[1:].astype(np.float64)
    middles = low / 2 + high / 2
    return floats.Cuts.at(np.where(middles < high, middles, low), book.centres, dtype)


_KINDS: dict[str, type[Encoding]] = {
    cls.kind: cls for cls in (Dense, Sparse, Affine, Binary, Codebook)
}


def from_record(record: Mapping[str, Any]) -> Encoding:
    """The inverse of `Encoding.record`.

    Raises:
        ValueError: the record is of no known kind, or its fields do not fit.
    """
    fields = dict(record)
    cls = _KINDS.get(str(fields.pop("kind", "")))
    if cls is None:
        raise ValueError(f"unknown encoding {record.get('kind')!r}")
    if "inner" in fields:
        fields["inner"] = from_record(fields["inner"])
    try:
        return cls(**fields)
    except TypeError as error:
        raise ValueError(f"encoding {cls.kind}: {error}") from None


def with_inner(encoding: Encoding, inner: Encoding) -> Encoding:
    """`inner` in place of what `encoding` says of the values, an outer `Sparse` kept."""
    if isinstance(encoding, Sparse):
        return Sparse(inner, encoding.pattern)
    return inner


def _width(symbols: int) -> int:
    return max(1, (symbols - 1).bit_length())


def _float_type(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
