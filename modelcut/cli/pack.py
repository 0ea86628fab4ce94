"""`modelcut pack`: a model as a packed file."""

from __future__ import annotations

from typing import Any

import typer

from modelcut.cli import container, flags, options, panels


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "Model file or SavedModel folder to read.", panel=options.MODEL),
        options.OUTPUT,
        options.FORCE,
        options.CODER,
        options.KEEP_OPTIMIZER,
        options.REPORT,
        options.SHA256,
        options.FULL_REPORT,
        options.PROFILE,
        *options.gates("evaluation."),
        *options.SHOW,
    ]
    example = "modelcut pack model.h5 -o model.mcut"
    app.command(name, cls=panels.Command, epilog=example)(flags.command(parameters, pack))


def pack(**values: Any) -> None:
    """Pack a model losslessly into a small .mcut file; unpack restores every bit.

    The optimizer's state is left out unless --keep-optimizer is given.
    """
    container.convert(values, "pack", packed=True)
