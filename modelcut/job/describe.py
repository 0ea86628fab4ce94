"""The stage that describes the job in a report."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelcut import __version__
from modelcut.formats import base, registry
from modelcut.job import provenance
from modelcut.job.digest import Digest, size
from modelcut.job.fold import Folded
from modelcut.job.request import Job
from modelcut.job.write import Draft
from modelcut.metrics.confidence import too_few
from modelcut.metrics.limits import Limits
from modelcut.model import cost
from modelcut.model.measure import Meter
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe
from modelcut.report import build
from modelcut.report.build import Identity, Passage
from modelcut.report.schema import SCHEMA, Input, Output, Report
from modelcut.safety import printable
from modelcut.steps import effect
from modelcut.steps.base import Context


def describe(
    passage: Passage, source: Path, target: Path | None, digest: Digest, recipe: Recipe | None
) -> Report:
    """The report as far as it does not need the network to run."""
    model = passage.models[0]
    stages = build.ledger(passage)
    coded = build.coded(passage, stages[-1])
    file_bytes = (size(source), size(target) if target else None)
    return Report(
        schema=SCHEMA,
        modelcut=__version__,
        versions=provenance.versions(),
        host={"machine": platform.machine(), "system": platform.system()},
        input=Input(
            str(source),
            model.origin.container or model.origin.format,
            model.origin.dialect,
            model.origin.writer,
            file_bytes[0],
            digest.sha256,
            digest.blake3,
            registry.facts(model),
            model.origin.format if model.origin.container else None,
            tuple(model.origin.dropped),
        ),
        output=None,
        recipe=recipe.to_dict() if recipe else None,
        seed=recipe.head.seed if recipe else None,
        sizes=build.sizes(passage, stages, file_bytes),
        ledger=(*stages, *coded),
        steps=tuple(build.step_rows(passage)),
        layers=tuple(build.layers(passage)),
        histograms=tuple(build.histograms(passage)),
    )


def passage_of(
    folded: Folded,
    recipe: Recipe | None,
    meters: Mapping[Identity, Meter],
    written: base.Written | None = None,
) -> Passage:
    """All that was watched, of a job or (without a recipe) of a model as it is."""
    models = folded.models
    return Passage(
        models,
        recipe.steps if recipe else (),
        folded.outcomes,
        folded.seconds,
        meters,
        written.stored if written else {},
        written.encodings if written else {},
        written.coders if written else {},
        (cost.macs(models[0]), cost.macs(models[-1])),
    )


def output_of(job: Job, writer: base.Format, draft: Draft, printed: Digest) -> Output:
    """What the report says of the file that was written."""
    written = draft.written
    compression = None if writer.own_coding else job.compression or "fast"
    return Output(
        str(job.output),
        writer.name,
        size(draft.path),
        printed.sha256,
        printed.blake3,
        compression,
        tuple(written.dropped),
        {writer.facts_key: dict(written.facts)} if written.facts else {},
    )


def warnings_of(passage: Passage) -> list[str]:
    """What was odd in the file, in its architecture, in a step and in the values."""
    model = passage.models[0]
    told = [line for outcome in passage.outcomes for line in outcome.warnings]
    return [
        *model.origin.warnings,
        *_passengers(model),
        *told,
        *(line for line in _left_alone_by_value(passage) if line not in told),
        *build.class_warnings(passage),
        *build.value_warnings(passage),
    ]


def _passengers(model: Model) -> list[str]:
    """What a rewrite carries along unexecuted, and whoever loads the file may run."""
    return [
        f"{finding}: carried through unexecuted; loading the file may run it"
        for finding in registry.dangers(model)
        if finding.carries
    ]


def _left_alone_by_value(passage: Passage) -> list[str]:
    """What is to be said of steps that found in the values why they changed nothing."""
    lines: list[str] = []
    rows = build.step_rows(passage)
    for index, (step, row) in enumerate(zip(passage.steps, rows, strict=True)):
        if "budget" not in row.facts:
            context = Context(index=index)
            lines += effect.of_reasons(step, passage.models[index], row.left_alone, context)
    return lines


def data_warnings(report: Report, limits: Limits, notes: Sequence[str] = ()) -> list[str]:
    """What was odd in the data: as the steps read it, and as it was evaluated.

    Args:
        report: the report, evaluated.
        limits: the gates that it is judged by.
        notes: what the steps noticed.
    """
    found = report.evaluation
    if found is None:
        return list(dict.fromkeys(notes))
    sides = [side.get("warnings", []) for side in (found.before, found.after) if side]
    lines = [*notes, *(line for side in sides for line in side)]
    if found.change:
        lines += too_few(limits, found.change, int(found.after.get("rows", 0)))
    ratio = found.latency
    if ratio and not ratio["same_engine"]:
        first, second = (printable(str(name), 60) for name in ratio["engines"])
        lines.append(
            f"latency: {first} and {second} are different engines: their ratio is not that of "
            "the networks alone"
        )
    return list(dict.fromkeys(lines))
