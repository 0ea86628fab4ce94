"""How a tensor's values are restricted and could be written: the single truth about it.

An encoding is a set of permitted arrays. The trainer projects onto it, the packer writes codes
from it, the report counts from it; none of them knows which step made it. Encodings compose:
`Sparse(Codebook(...))` keeps zeros exactly zero and clusters the other values.

Values are always kept as the floats that the file stores; codes are recovered from them exactly.
Arrays of parameters (`scale`, `zero_point`) broadcast against the tensor: each axis has length 1,
the tensor's own length, or, on the grouped axis, one entry a group.

Large tensors are walked in blocks of rows (axis 0): `rows` says which rows `values` are.

What has codes is in `encodings/`, one file per kind. A new kind needs no other file: it is read
back by its name, packed by `codes` and `decode`, counted by `bits` and trained by `project`.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from modelcut.arrays import floats
from modelcut.arrays.blocks import ALL
from modelcut.model import encodings

_KINDS: dict[str, type[Encoding]] = {}


class Encoding(ABC):
    """A restriction on the values of one tensor."""

    kind: ClassVar[str]

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "kind" in vars(cls):  # else it is a form of another kind, and is not kept as such
            _KINDS[cls.kind] = cls

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

    @property
    def uniform(self) -> bool:
        """Whether a code stands for the same value everywhere in the tensor."""
        return False

    @property
    def unmasked(self) -> Encoding:
        """The encoding of the values that a mask keeps; without a mask, this one."""
        return self

    @property
    def masked(self) -> bool:
        """Whether zeros are kept by a mask."""
        return False

    def recoded(self, encoding: Encoding) -> Encoding:
        """`encoding` in place of the current one of the values; a mask and its pattern are kept."""
        return encoding

    @property
    def pattern(self) -> str:
        """How the zeros of a mask are arranged, such as "2:4"; "" for anywhere, or no mask."""
        return ""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether its parameters are sound and go with a tensor of this shape."""
        del shape
        return True

    def take(self, axis: int, indices: np.ndarray) -> Encoding:
        """The encoding of a tensor of which only some slices are kept.

        Args:
            axis: axis along which slices are kept, not negative.
            indices: indices of the slices that are kept, int64, shape (n,).
        """
        del axis, indices
        return self

    def arranged(
        self, shape: tuple[int, ...], arrange: Callable[[np.ndarray], np.ndarray]
    ) -> Encoding:
        """The encoding of a tensor whose axes are moved or merged.

        Args:
            shape: shape of the tensor as it is.
            arrange: moves the axes of an array of that shape.
        """
        del shape, arrange
        return self

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
        held: how Keras stores the values: "int8", "int4, 2 a byte", "float8 when run".
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

    @property
    def unmasked(self) -> Encoding:
        return self.inner

    @property
    def masked(self) -> bool:
        return True

    def recoded(self, encoding: Encoding) -> Encoding:
        return Sparse(encoding, self.pattern)

    def fits(self, shape: tuple[int, ...]) -> bool:
        return self.inner.fits(shape)

    def take(self, axis: int, indices: np.ndarray) -> Encoding:
        # A pattern over neighbours does not survive the loss of some of them.
        pattern = self.pattern if self.pattern in ("rows", "columns") else ""
        return Sparse(self.inner.take(axis, indices), pattern)

    def arranged(
        self, shape: tuple[int, ...], arrange: Callable[[np.ndarray], np.ndarray]
    ) -> Encoding:
        return Sparse(self.inner.arranged(shape, arrange))

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
        """Codes of `inner` plus one, since zeros take code 0."""
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


def from_record(record: Mapping[str, Any]) -> Encoding:
    """The inverse of `Encoding.record`.

    Raises:
        ValueError: the record is of no known kind, or its fields do not fit.
    """
    fields = dict(record)
    kind = str(fields.pop("kind", ""))
    if kind not in _KINDS and kind in _coded_kinds():
        import_module(f"{encodings.__name__}.{kind}")
    cls = _KINDS.get(kind)
    if cls is None:
        raise ValueError(f"unknown encoding {record.get('kind')!r}")
    if "inner" in fields:
        fields["inner"] = from_record(fields["inner"])
    try:
        return cls(**fields)
    except TypeError as error:
        raise ValueError(f"encoding {cls.kind}: {error}") from None


@lru_cache(maxsize=1)
def _coded_kinds() -> frozenset[str]:
    """Names of the files in `encodings/`."""
    return frozenset(module.name for module in pkgutil.iter_modules(encodings.__path__))


def broadcasts(
    parameter: Any, shape: tuple[int, ...], *, group: int = 0, group_axis: int = 0
) -> bool:
    """Whether an array of parameters is finite, not empty, and broadcasts against a tensor.

    Args:
        parameter: one for the whole tensor, or with as many axes as it has.
        shape: shape of the tensor.
        group: values per entry along `group_axis`; 0: no groups.
        group_axis: the grouped axis.
    """
    if not isinstance(parameter, np.ndarray) or not parameter.size:
        return False
    if not np.isfinite(parameter).all() or parameter.ndim not in (0, len(shape)):
        return False
    for axis, (mine, size) in enumerate(zip(parameter.shape, shape, strict=False)):
        groups = -(-size // group) if group and axis == group_axis else size
        if mine not in (1, groups):
            return False
    return True


def taken(parameter: np.ndarray, axis: int, indices: np.ndarray) -> np.ndarray:
    """The entries of an array of parameters that belong to some slices of the tensor."""
    if not parameter.ndim or parameter.shape[axis] == 1:
        return parameter
    return parameter.take(indices, axis=axis)


def _width(symbols: int) -> int:
    return max(1, (symbols - 1).bit_length())


def _float_type(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
