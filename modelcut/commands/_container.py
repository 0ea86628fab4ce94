"""`modelcut pack | unpack`: the same model in another container, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelcut.commands import _job
from modelcut.errors import UsageError
from modelcut.recipe import Recipe


def convert(values: dict[str, Any], name: str, *, packed: bool) -> None:
    """Writes the model of `values` to its output, and shows the report.

    Raises:
        UsageError: no output, or one of the wrong kind.
    """
    from modelcut import pipeline
    from modelcut.coding import Coder
    from modelcut.formats import Compression
    from modelcut.job import Job

    suffix = ".mcut"
    output = _job.path_of(values.get("output"))
    if output is None:
        more = "" if packed else ", or a name without suffix for a SavedModel folder"
        raise UsageError("no output named", f"add -o FILE{suffix if packed else '.h5'}{more}")
    if packed != (output.suffix.lower() == suffix):
        hint = f"name it {suffix}" if packed else "`modelcut pack` writes .mcut"
        raise UsageError(f"{output}: not what `modelcut {name}` writes", hint)
    report = pipeline.run(
        Job(
            Path(values["model"]),
            Recipe((), _job.head_from(values), f"modelcut {name}"),
            output,
            force=bool(values.get("force")),
            compression=_job.choice(values, "compression", Compression),
            coder=_job.choice(values, "coder", Coder),
            # What was packed comes back, the optimizer's state too where `pack` has kept it.
            keep_optimizer=bool(values.get("keep_optimizer")) if packed else None,
            report=bool(values.get("report")),
            lossless=True,
        ),
        _job.progress(values),
    )
    _job.finish(report, values)
