"""What a verification found: which tensors are as they were written."""

from __future__ import annotations

from dataclasses import dataclass

from modelcut.report.schema import Part

SCHEMA = "modelcut-verify/1"


@dataclass(frozen=True)
class Damage(Part):
    """A tensor that is not as it was written.

    Attributes:
        tensor: its name.
        what: what is wrong with it.
    """

    tensor: str
    what: str


@dataclass(frozen=True)
class Integrity(Part):
    """Whether the values in a file are those that were written.

    Attributes:
        schema: name and version of this form.
        path: the file, as given by the user.
        format: registry name of its format.
        sound: no damage was found; without checksums that says little.
        tensors: how many were read.
        matched: how many match the checksum that modelcut kept of them.
        checksums: what of the format itself would tell damage; "" where nothing does.
        damaged: the tensors that are not as they were written.
    """

    schema: str
    path: str
    format: str
    sound: bool
    tensors: int
    matched: int
    checksums: str
    damaged: tuple[Damage, ...] = ()
