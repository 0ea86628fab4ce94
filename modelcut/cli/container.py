"""`modelcut pack | unpack`: the same model in another container, bit for bit."""

from __future__ import annotations

from typing import Any

import modelcut
from modelcut.cli import options
from modelcut.errors import UsageError


def convert(values: dict[str, Any], name: str, *, packed: bool) -> None:
    """Writes the model of `values` to its output, and shows the report.

    Raises:
        UsageError: no output, or one of the wrong kind.
    """
    from modelcut.formats.base import Coder, Compression

    suffix = ".mcut"
    output = options.path_of(values.get("output"))
    if output is None:
        other = "" if packed else ", or a name without suffix for a SavedModel folder"
        raise UsageError("no output named", f"add -o FILE{suffix if packed else '.h5'}{other}")
    if packed != (output.suffix.lower() == suffix):
        hint = f"name it {suffix}" if packed else "`modelcut pack` writes .mcut"
        raise UsageError(f"{output}: `modelcut {name}` does not write this format", hint)
    options.check_summary(values, output)
    more: dict[str, Any] = {
        "force": bool(values.get("force")),
        "report": bool(values.get("report")),
        "sha256": bool(values.get("sha256")),
        "full_report": bool(values.get("full_report")),
        "say": options.progress(values),
    }
    if packed:
        report = modelcut.pack(
            values["model"],
            output,
            coder=options.choice(values, "coder", Coder),
            keep_optimizer=bool(values.get("keep_optimizer")),
            gates=options.head_from(values).gates,
            **more,
        )
    else:
        compression = options.choice(values, "compression", Compression)
        report = modelcut.unpack(values["model"], output, compression=compression, **more)
    options.finish(report, values)
