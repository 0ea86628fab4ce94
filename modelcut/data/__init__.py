"""A CSV as a stream of batches: read in bounded memory, checked cell by cell, cleaned, labelled."""

from modelcut.data.csv import Batch, Csv
from modelcut.data.options import DataOptions, InputSpec

__all__ = ["Batch", "Csv", "DataOptions", "InputSpec"]
