"""`modelcut pack | unpack`: the same model in another container, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelcut.cli import options
from modelcut.errors import UsageError
from modelcut.recipe.recipe import Recipe


def convert(values: dict[str, Any], name: str, *, packed: bool) -> None:
    """Writes the model of `values` to its output, and shows the report.

    Raises:
        UsageError: no output, or one of the wrong kind.
    """
    from modelcut.formats.base import Coder, Compression
    from modelcut.job import pipeline
    from modelcut.job.request import Job
    from modelcut.report.schema import Report

    suffix = ".mcut"
    output = options.path_of(values.get("output"))
    if output is None:
        more = "" if packed else ", or a name without suffix for a SavedModel folder"
        raise UsageError("no output named", f"add -o FILE{suffix if packed else '.h5'}{more}")
    if packed != (output.suffix.lower() == suffix):
        hint = f"name it {suffix}" if packed else "`modelcut pack` writes .mcut"
        raise UsageError(f"{output}: not what `modelcut {name}` writes", hint)
    options.check_summary(values, output)
    report = pipeline.run(
        Job(
            Path(values["model"]),
            Recipe((), options.head_from(values), f"modelcut {name}"),
            output,
            force=bool(values.get("force")),
            compression=options.choice(values, "compression", Compression),
            coder=options.choice(values, "coder", Coder),
            # What was packed comes back, the optimizer's state too where `pack` has kept it.
            keep_optimizer=bool(values.get("keep_optimizer")) if packed else None,
            report=bool(values.get("report")),
            lossless=True,
        ),
        options.progress(values),
    )
    assert isinstance(report, Report)  # nothing trains
    options.finish(report, values)
