"""`modelcut unpack`: a packed file as the model that it was made of."""

from __future__ import annotations

from typing import Any

import typer

from modelcut import flags
from modelcut.commands import _container, _job


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "The packed file."),
        _job.OUTPUT,
        _job.FORCE,
        _job.COMPRESSION,
        _job.REPORT,
        *_job.SHOW,
    ]
    app.command(name)(flags.command(parameters, unpack))


def unpack(**values: Any) -> None:
    """Make a packed file what it was before: .h5, .keras or a SavedModel folder.

    The optimizer's state is there again if it was packed: pack --keep-optimizer.
    """
    _container.convert(values, "unpack", packed=False)
