"""`modelcut prune`, `finetune` and so on: a recipe of one step, its flags from the step itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer

from modelcut import steps
from modelcut.cli import flags, options
from modelcut.recipe.recipe import Recipe


def register(app: typer.Typer, name: str) -> None:
    """Adds the command of one family of steps."""
    default = steps.default(name)
    methods = sorted(steps.methods(name), key=lambda method: (method != default, method))
    parameters = [
        flags.argument("model", "Model to read: .h5, .hdf5, .keras, .mcut or a SavedModel folder."),
        flags.option(
            "method", f"Method of the step (default: {default}).", metavar="|".join(methods)
        ),
        *flags.of_models(steps.find(name, method) for method in methods),
        *options.JOB,
        *options.MEASURE,
        *options.TRUST,
        *options.SHOW,
    ]

    def body(**values: Any) -> None:
        cls = steps.find(name, values.get("method") or default)
        step = flags.build(cls, _fields(cls, values, methods, name))
        options.execute(Recipe((step,), options.head_from(values), f"modelcut {name}"), values)

    body.__doc__ = steps.summary(name)
    app.command(name)(flags.command(parameters, body))


def _fields(cls: Any, values: dict[str, Any], methods: Iterable[str], name: str) -> dict[str, Any]:
    """The step's own fields, and those of other methods too, for pydantic to refuse."""
    fields = flags.fields_given(cls, values)
    for method in methods:
        fields.update(
            {
                key: value
                for key, value in flags.fields_given(steps.find(name, method), values).items()
                if key not in fields
            }
        )
    return fields
