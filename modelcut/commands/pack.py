"""`modelcut pack`: a model as a packed file."""

from __future__ import annotations

from typing import Any

import typer

from modelcut import flags
from modelcut.commands import _container, _job
from modelcut.gates import Gates


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "The model."),
        _job.OUTPUT,
        _job.FORCE,
        _job.CODER,
        _job.KEEP_OPTIMIZER,
        _job.REPORT,
        *flags.of_models([Gates]),
        *_job.SHOW,
    ]
    app.command(name)(flags.command(parameters, pack))


def pack(**values: Any) -> None:
    """Write a model as a small .mcut file: all bits of it come back with unpack.

    Only the optimizer's state is left out, unless --keep-optimizer packs that too.
    """
    _container.convert(values, "pack", packed=True)
