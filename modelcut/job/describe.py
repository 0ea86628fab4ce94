"""The stage that describes the job in a report."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from modelcut import __version__
from modelcut.formats import base, registry
from modelcut.graph import scan
from modelcut.job import provenance
from modelcut.job.digest import Digest, size
from modelcut.job.pipeline import _left_alone_by_value
from modelcut.job.request import Job
from modelcut.recipe.recipe import Recipe
from modelcut.report import build
from modelcut.report.build import Passage


def describe(
    passage: Passage, source: Path, target: Path | None, digest: Digest, recipe: Recipe | None
) -> dict[str, Any]:
    """The report as far as it does not need the network to run."""
    model = passage.models[0]
    stages = build.ledger(passage)
    coded = build.coded(passage, stages[-1])
    file_bytes = (size(source), size(target) if target else None)
    report: dict[str, Any] = {
        "schema": build.SCHEMA,
        "modelcut": __version__,
        "notes": [],
        "versions": provenance.versions(),
        "host": {"machine": platform.machine(), "system": platform.system()},
        "input": {
            "path": str(source),
            "format": model.origin.container or model.origin.format,
            "dialect": model.origin.dialect,
            "writer": model.origin.writer,
            "bytes": file_bytes[0],
            "sha256": digest.hex(),
            **registry.facts(model),
        },
        "output": None,
        "recipe": recipe.to_dict() if recipe else None,
        "seed": recipe.head.seed if recipe else None,
        "sizes": build.sizes(passage, stages, file_bytes),
        "ledger": [*stages, *coded],
        "steps": build.step_rows(passage),
        "layers": build.layers(passage),
        "evaluation": None,
        "gates": [],
        "warnings": [],
    }
    return report


def _output(
    job: Job, writer: base.Format, target: Path, written: base.Written, printed: Digest
) -> dict[str, Any]:
    """What the report says of the file that was written."""
    compression = None if getattr(writer, "OWN_CODING", "") else job.compression or "fast"
    made = "litert" if writer.NAME == "litert" else "export"
    return {
        "path": str(job.output),
        "format": writer.NAME,
        "bytes": size(target),
        "sha256": printed.hex(),
        "compression": compression,
        "dropped": list(written.dropped),
        **({made: dict(written.facts)} if written.facts else {}),
    }


def _warnings(passage: Passage) -> list[str]:
    """What was odd in the file, in its architecture, in a step and in the values."""
    model = passage.models[0]
    text = model.architecture.text if model.architecture is not None else ""
    told = [line for outcome in passage.outcomes for line in outcome.warnings]
    return [
        *model.origin.warnings,
        *scan.passengers(text),
        *told,
        *(line for line in _left_alone_by_value(passage) if line not in told),
        *build.value_warnings(passage),
    ]


def _data_warnings(report: dict[str, Any]) -> list[str]:
    evaluation = report["evaluation"] or {}
    return list((evaluation.get("after") or {}).get("warnings", []))
