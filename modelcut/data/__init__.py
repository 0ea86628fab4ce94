"""A CSV as a stream of batches: read in bounded memory, checked cell by cell, cleaned, labelled.

`csv` does the work; this package itself gives only what it is told, which flags are made of.
"""

from modelcut.data.options import DataOptions, InputSpec

__all__ = ["DataOptions", "InputSpec"]
