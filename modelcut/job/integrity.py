"""Holds the values in a file against the checksums that were kept of them: `verify`."""

from __future__ import annotations

from pathlib import Path

from modelcut import safety
from modelcut.arrays import digest
from modelcut.errors import InputError
from modelcut.formats import registry
from modelcut.report.integrity import SCHEMA, Damage, Integrity


def verify(path: Path) -> Integrity:
    """Reads every tensor of a model.

    Raises:
        UsageError: there is no such file.
        InputError: it is so broken that its tensors cannot be listed.
        UnsafeError: it reaches outside itself.
    """
    safety.check_path(path)
    with registry.open_model(path) as model:
        kept, matched, damaged = model.origin.checksums, 0, []
        tensors = list(model.tensors)
        for tensor in tensors:
            try:
                values = tensor.source.read()
            except InputError as error:
                damaged.append(Damage(tensor.name, error.message.removeprefix(f"{path}: ")))
                continue
            wanted = kept.get(tensor.name)
            if wanted is None:
                continue
            if digest.matches(values, wanted):
                matched += 1
            else:
                damaged.append(Damage(tensor.name, "does not match its checksum"))
        names = {tensor.name for tensor in tensors}
        damaged += [Damage(name, "is no longer there") for name in kept if name not in names]
        one = registry.of_file(model)
        unzipped = path.is_dir() and not one.folder  # nothing holds its members together
        return Integrity(
            schema=SCHEMA,
            path=str(path),
            format=one.name,
            sound=not damaged,
            tensors=len(tensors),
            matched=matched,
            checksums="" if unzipped else one.own_checksums,
            damaged=tuple(damaged),
        )
