"""`modelcut export`: a `.tflite` or `.onnx` of a model as it is; a recipe without steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from modelcut.cli import flags, options, panels
from modelcut.errors import UsageError
from modelcut.recipe.recipe import Recipe


def register(app: typer.Typer, name: str) -> None:
    """Adds the command."""
    parameters = [
        flags.argument("model", "Model to read: .h5, .hdf5, .keras or .mcut.", panel=options.MODEL),
        options.OUTPUT,
        options.FORCE,
        options.KEEP_ON_FAILURE,
        options.IF_CHANGED,
        options.DEPFILE,
        options.DRY_RUN,
        options.PRINT_RECIPE,
        options.REPORT,
        options.SHA256,
        options.TEST,
        options.CALIBRATE,
        *options.EXPORT,
        options.SEED,
        *options.MEASURE,
        *options.TRUST,
        *options.SHOW,
    ]
    example = "modelcut export model.h5 --type int8 --calibrate train.csv -o small.tflite"
    app.command(name, cls=panels.Command, epilog=example)(flags.command(parameters, export))


def export(**values: Any) -> None:
    """Convert a model to .tflite for LiteRT on phones and microcontrollers, or to .onnx."""
    output = values.get("output")
    if output and Path(output).suffix.lower() not in (".tflite", ".onnx"):
        raise UsageError(f"{output}: export writes a .tflite or an .onnx", "use such a suffix")
    options.execute(Recipe((), options.head_from(values), "modelcut export"), values)
