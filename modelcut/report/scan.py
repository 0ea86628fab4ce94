"""What a scan found in a file: plain data, and a table of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelcut.report.cells import Table
from modelcut.report.schema import Part
from modelcut.safety import printable

SCHEMA = "modelcut-scan/1"


@dataclass(frozen=True)
class Found(Part):
    """Something in a file that is not known to be harmless.

    Attributes:
        kind: code (runs, or names what runs), file (reads or reaches outside the model), custom (a
            class that only its author has), graph (an operation of a SavedModel that does more than
            compute), operator (one whose code is not LiteRT's), size (more than a machine holds).
        layer: the innermost layer that contains it; "" where that is not one.
        what: it, in a few words.
    """

    kind: str
    layer: str
    what: str


@dataclass(frozen=True)
class Scan(Part):
    """What a file holds that could execute, read, write or exhaust.

    Attributes:
        schema: name and version of this form.
        path: the file, as given by the user.
        format: registry name of its format; "" where it was refused before that was known.
        writer: what wrote it.
        safe: nothing was found: engines run it without `--trust`.
        findings: what was found.
    """

    schema: str
    path: str
    format: str
    writer: str
    safe: bool
    findings: tuple[Found, ...] = ()


def tables(scan: Scan) -> Iterator[Table]:
    """A table of the findings."""
    rows = [
        (one.kind, printable(one.layer, 40) or "–", printable(one.what, 200))
        for one in scan.findings
    ]
    yield Table("Findings", ("kind", "layer", "what"), rows, left=("layer", "what"))
