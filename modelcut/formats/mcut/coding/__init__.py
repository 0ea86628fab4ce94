"""Entropy coding of symbols and raw values: NumPy and maintained coders, no files, no models.

Only the packed format uses this room. `symbols` codes arrays of small integers, by Huffman codes
or by a range coder; `raw` codes the bytes of any array. What is decoded was written by strangers:
every length is bounded before anything is allocated, and `CodingError` is all that is raised.
"""

from __future__ import annotations


class CodingError(ValueError):
    """A stream that no encoder of this room wrote."""
