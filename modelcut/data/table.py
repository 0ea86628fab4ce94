"""What every source of samples gives: batches for a model's inputs, and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from modelcut.data.options import DataOptions


@dataclass(frozen=True)
class Batch:
    """Some rows.

    Attributes:
        inputs: arrays by input name, shape (samples, *input shape), in the input's dtype.
        labels: float64 (rows, label columns), or text (rows, 1) as objects; None without labels.
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass
class Cleaning:
    """What was found and done while reading, in rows and cells."""

    rows_read: int = 0
    rows_used: int = 0
    dropped_missing: int = 0
    dropped_nonfinite: int = 0
    dropped_unreadable: int = 0
    dropped_outliers: int = 0
    imputed_cells: int = 0
    clipped_cells: int = 0

    def to_dict(self) -> dict[str, int]:
        """Plain data."""
        return asdict(self)


class Table(ABC):
    """Samples of one source, bound to a model's inputs.

    Attributes:
        path: where they are.
        options: how they are read; the source may know more than the user said, such as the names
            of the classes.
        cleaning: what was found in the last pass.
        warnings: what the user should know of how they are read.
    """

    path: Path
    options: DataOptions
    cleaning: Cleaning
    warnings: list[str]

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Unique names of all columns."""

    @property
    @abstractmethod
    def labels(self) -> list[int]:
        """Numbers of the label columns; none without labels."""

    @property
    @abstractmethod
    def features(self) -> dict[str, list[int]]:
        """Numbers of the columns of each input, by its name."""

    @property
    def reconstructs(self) -> bool:
        """Whether the labels are the features themselves, as an autoencoder learns them."""
        return False

    @property
    def width(self) -> int:
        """Values of a sample, of all inputs together."""
        return sum(map(len, self.features.values()))

    @abstractmethod
    def batches(self, size: int) -> Iterator[Batch]:
        """All samples, cleaned, in batches of `size` (the last may be smaller).

        Raises:
            InputError: a bad sample, where samples are not to be cleaned; or none is left.
        """
