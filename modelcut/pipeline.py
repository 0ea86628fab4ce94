"""The main job: check, fold the steps, write, re-read, evaluate, judge, and only then publish.

What is reported is what was written: sizes from the meters that watched the writer, metrics from
the written file. Nothing appears at the output's place before all of it is done.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from modelcut import __version__, formats, graph, networks, provenance, safety
from modelcut.budget import Budgeted
from modelcut.checkpoint import Checkpoint
from modelcut.digest import Digest, size
from modelcut.errors import InputError, ModelcutError, UsageError
from modelcut.job import Job, Trust, check_needs, check_options
from modelcut.lab import Lab
from modelcut.measure import Meter
from modelcut.model import Model
from modelcut.output import Outputs
from modelcut.recipe import Recipe
from modelcut.report import build, render
from modelcut.report.build import Passage, identity
from modelcut.step import Context, Outcome, Step

Say = Callable[[str], None]


def run(job: Job, say: Say = lambda _: None) -> dict[str, Any]:
    """Does the whole job and returns the report; `report["gates"]` tells what held.

    A worker that is not the chief of a distributed training does its share, waits until the chief
    has written, and returns only {"worker": …, "workers": …}.

    Raises:
        ModelcutError: with the exit code; nothing is left behind.
    """
    check_needs(job.recipe, job.train, job.validate, job.test)
    for path in job.inputs:
        safety.check_path(path)
    with Digest(job.model) as digest:
        model = formats.open_model(job.model)
        writer = formats.for_output(job.output, model)
        check_options(job, model, writer)
        if job.test is not None or formats.needs_engine(writer, model):
            networks.check_runnable(model, job.trust)
        team = networks.team_for(job, digest)
        lab = networks.laboratory_for(model, job.recipe, job.train, job.validate, job.trust, team)
        chief = team is None or team.chief
        kept = networks.checkpoint_for(job, digest, writes=chief)
        if team is not None and not chief:
            fold(model, job.recipe, say, lab, kept)
            team.finish()
            return {"worker": team.worker, "workers": team.workers}
        outputs = Outputs(
            job.inputs, force=job.force, in_place=job.in_place, ours=provenance.is_ours
        )
        with outputs:
            target = outputs.add(job.output, folder=formats.is_folder(writer))
            pages = provenance.report_paths(job.output) if job.report else {}
            drafts = {kind: outputs.add(path) for kind, path in pages.items()}
            header = outputs.add(job.header) if job.header else None
            say("planning")
            models, outcomes, seconds = fold(model, job.recipe, say, lab, kept)
            reason = writer.refusal(models[-1])
            if reason:
                raise UsageError(f"{job.output}: {reason}")
            say("writing")
            keep = job.keep_optimizer
            meters: dict[build.Identity, Meter] = {}
            history = partial(provenance.of, job, model, digest)
            written = writer.write(
                models[-1],
                target,
                formats.WriteOptions(
                    compression=job.compression or "fast",
                    coder=job.coder or "best",
                    keep_optimizer=formats.is_own(writer, model) if keep is None else keep,
                    provenance=history,
                    convert=networks.conversion(job, history),
                    meter=lambda tensor: meters.setdefault(identity(tensor), Meter(deflate=True)),
                ),
            )
            outputs.flush(target)
            with Digest(target) as printed:
                _measure_rest(models, meters)
                again = formats.open_model(target)
                if not formats.needs_engine(writer, models[-1]):
                    _check_same(models[-1], again, job.output)
                passage = Passage(
                    models,
                    job.recipe.steps,
                    outcomes,
                    seconds,
                    meters,
                    written.stored,
                    written.encodings,
                    written.coders,
                    (graph.macs(model), graph.macs(models[-1])),
                )
                report = describe(passage, job.model, target, digest, job.recipe)
                _refuse_nan(report)
                report["output"] = output = _output(job, writer, target, written, printed)
            if header is not None:
                say("measuring the arena")
                output["header"] = networks.write_header(job, target, header, written.facts)
            if job.test is not None:
                say("evaluating")
                report["evaluation"] = networks.evaluate(
                    job.recipe, job.test, [(job.model, model), (target, again)], job.trust
                )
            report["warnings"] = [
                *_warnings(passage),
                *formats.warnings(writer, output),
                *_data_warnings(report),
            ]
            report["gates"] = job.recipe.head.gates.judge(report)
            for kind, draft in drafts.items():
                draft.write_text(render(report, kind), encoding="utf-8")
            if digest.changed():
                raise InputError(f"{job.model}: changed while modelcut was reading it", "run again")
            outputs.publish()
        if kept is not None:
            kept.remove()
        if team is not None:
            team.finish()
    return report


def fold(
    model: Model,
    recipe: Recipe,
    say: Say,
    lab: Lab | None = None,
    kept: Checkpoint | None = None,
) -> tuple[list[Model], list[Outcome], list[float]]:
    """Applies the steps in order; nothing but surveys and trainings is computed yet.

    Returns:
        The model as read and after each step, the outcomes, and the seconds of each step.
    """
    models, outcomes, seconds = [model], [], []
    for index, step in enumerate(recipe.steps):
        say(step.title)
        start = time.perf_counter()
        keeper = kept.keeper(index) if kept and "loop" in step.needs else None
        context = Context(index=index, seed=recipe.head.seed, say=say, lab=lab, keeper=keeper)
        searched = isinstance(step, Budgeted) and step.searched
        outcome = (
            _searched(step, models[-1], context) if searched else (step.apply(models[-1], context))
        )
        seconds.append(time.perf_counter() - start)
        outcomes.append(outcome)
        models.append(outcome.model)
    return models, outcomes, seconds


def _searched(step: Step, model: Model, context: Context) -> Outcome:
    from modelcut.search import budget

    assert isinstance(step, Budgeted)
    return budget.apply(step, model, context)


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
        "versions": provenance.versions(),
        "host": {"machine": platform.machine(), "system": platform.system()},
        "input": {
            "path": str(source),
            "format": model.origin.container or model.origin.format,
            "dialect": model.origin.dialect,
            "writer": model.origin.writer,
            "bytes": file_bytes[0],
            "sha256": digest.hex(),
            **formats.facts(model),
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


def look(
    path: Path,
    recipe: Recipe | None = None,
    say: Say = lambda _: None,
    train: Path | None = None,
    validate: Path | None = None,
    trust: Trust | None = None,
    test: Path | None = None,
) -> tuple[Model, dict[str, Any]]:
    """Reads a model and measures it without changing or writing anything.

    Args:
        path: the model.
        recipe: planned on it (a dry run): the report then tells what it would do.
        say: takes a line about progress.
        train: CSV for the steps that train.
        validate: CSV for the steps that search.
        trust: what of the file's code may run for them.
        test: CSV that the recipe would be judged on; a warning says that it is not.

    Returns:
        The model, and a report without output and evaluation.
    """
    for each in (path, train, validate, test):
        if each is not None:
            safety.check_path(each)
    if recipe:
        check_needs(recipe, train, validate, test, dry=True)
    with Digest(path) as digest:
        model = formats.open_model(path)
        lab = None
        if recipe:
            lab = networks.laboratory_for(model, recipe, train, validate, trust or Trust())
        models, outcomes, seconds = fold(model, recipe, say, lab) if recipe else ([model], [], [])
        meters: dict[build.Identity, Meter] = {}
        _measure_rest(models, meters)
        passage = Passage(
            models,
            recipe.steps if recipe else (),
            outcomes,
            seconds,
            meters,
            macs=(graph.macs(model), graph.macs(models[-1])),
        )
        report = describe(passage, path, None, digest, recipe)
        report["warnings"] = _warnings(passage)
        if test is not None or (recipe and list(recipe.head.gates.items())):
            report["warnings"].append("a dry run judges neither accuracy nor gates")
    return model, report


def assess(
    path: Path, against: Path | None, test: Path, recipe: Recipe, trust: Trust, say: Say
) -> dict[str, Any]:
    """Evaluates a model, beside another one if given; nothing is written.

    Returns:
        A report whose input is the model itself, with the gates judged.
    """
    for other in (against, test):
        if other is not None:
            safety.check_path(other)
    model, report = look(path)
    _refuse_nan(report)
    candidates = [(path, model)]
    if against is not None:
        original = formats.open_model(against)
        candidates.insert(0, (against, original))
    for _, candidate in candidates:
        networks.check_runnable(candidate, trust)
    say("evaluating")
    report["evaluation"] = networks.evaluate(recipe, test, candidates, trust)
    report["warnings"] += _data_warnings(report)
    report["gates"] = recipe.head.gates.judge(report)
    return report


def _output(
    job: Job, writer: formats.Format, target: Path, written: formats.Written, printed: Digest
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
    return [
        *model.origin.warnings,
        *safety.passengers(text),
        *(line for outcome in passage.outcomes for line in outcome.warnings),
        *build.value_warnings(passage),
    ]


def _measure_rest(models: Sequence[Model], meters: dict[build.Identity, Meter]) -> None:
    """Pulls the tensors that no writer pulled: those that a step replaced by others."""
    for model in reversed(models):
        for tensor in model.tensors:
            if identity(tensor) not in meters:
                meters[identity(tensor)] = meter = Meter(deflate=True)
                tensor.pull(meter)


def _refuse_nan(report: Mapping[str, Any]) -> None:
    """Refuses a network that diverged in training: there is nothing left in it to compress."""
    for layer in report["layers"]:
        for row in layer["tensors"]:
            before = row["before"]
            if before["size"] and before["nonfinite"] == before["size"]:
                raise InputError(
                    f"{report['input']['path']}: {row['name']}: all values are NaN or infinite",
                    "the training diverged; use an earlier checkpoint",
                )


def _check_same(model: Model, again: Model, output: Path) -> None:
    """Holds the written file, read as a stranger's, against what was meant: layers and shapes."""
    meant = {(tensor.name, tensor.shape) for tensor in model.tensors}
    found = {(tensor.name, tensor.shape) for tensor in again.tensors}
    if meant != found:
        odd = sorted(name for name, _ in meant ^ found)[:3]
        raise ModelcutError(
            f"{output}: what was written does not read back the same ({', '.join(odd)})",
            "this is a mistake of modelcut: please report it with the input",
        )


def _data_warnings(report: dict[str, Any]) -> list[str]:
    evaluation = report["evaluation"] or {}
    return list((evaluation.get("after") or {}).get("warnings", []))
