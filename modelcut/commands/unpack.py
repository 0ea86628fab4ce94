"""`modelcut unpack`: a packed file as a model that Keras opens."""

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
    """Make a packed file a model that Keras opens: .h5 or .keras, as it was before."""
    _container.convert(values, "unpack", packed=False)
