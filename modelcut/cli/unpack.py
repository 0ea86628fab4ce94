"""`modelcut unpack`: a packed file as the model that it was made of."""

from __future__ import annotations

from typing import Any

import typer

from modelcut.cli import container, flags, options, panels


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "Packed file .mcut to read.", panel=options.MODEL),
        options.OUTPUT,
        options.FORCE,
        options.COMPRESSION,
        options.REPORT,
        options.SHA256,
        options.FULL_REPORT,
        options.PROFILE,
        *options.SHOW,
    ]
    example = "modelcut unpack model.mcut -o model.h5"
    app.command(name, cls=panels.Command, epilog=example)(flags.command(parameters, unpack))


def unpack(**values: Any) -> None:
    """Unpack a .mcut file into .h5, .keras or a SavedModel folder, as it was before.

    The optimizer's state is restored if it was packed (pack --keep-optimizer).
    """
    container.convert(values, "unpack", packed=False)
