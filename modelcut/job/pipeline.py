"""The main job: check, fold the steps, write, re-read, evaluate, judge, and only then publish.

What is reported is what was written: sizes from the meters that watched the writer, metrics from
the written file. Nothing appears at the output's place before all of it is done.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from modelcut import safety
from modelcut.errors import InputError, ResourceError, UsageError
from modelcut.formats import base, registry
from modelcut.job import check, convert, evaluate, provenance
from modelcut.job import start as job_start
from modelcut.job.check import check_needs, check_options
from modelcut.job.describe import _data_warnings, _output, _warnings, describe
from modelcut.job.digest import Digest
from modelcut.job.fold import fold
from modelcut.job.outputs import Outputs
from modelcut.job.request import Job, Say, Trust
from modelcut.job.verify import _check_same, _measure_rest, _refuse_nan
from modelcut.model import cost
from modelcut.model.measure import Meter
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe
from modelcut.report import build, render
from modelcut.report.build import Passage, identity


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
        model = registry.open_model(job.model)
        writer = registry.for_output(job.output, model)
        check_options(job, model, writer)
        if job.test is not None or registry.needs_engine(writer, model):
            check.check_runnable(model, job.trust)
        team = job_start.team_for(job, digest)
        runtime = job_start.runtime_for(model, job.recipe, job.train, job.validate, job.trust, team)
        chief = team is None or team.chief
        kept = job_start.checkpoint_for(job, digest, writes=chief)
        if team is not None and not chief:
            fold(model, job.recipe, say, runtime, kept)
            team.finish()
            return {"worker": team.worker, "workers": team.workers}
        outputs = Outputs(
            job.inputs, force=job.force, in_place=job.in_place, ours=provenance.is_ours
        )
        with outputs:
            target = outputs.add(job.output, folder=registry.is_folder(writer))
            pages = provenance.report_paths(job.output) if job.report else {}
            drafts = {kind: outputs.add(path) for kind, path in pages.items()}
            header = outputs.add(job.header) if job.header else None
            say("planning")
            models, outcomes, seconds = fold(model, job.recipe, say, runtime, kept)
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
                base.WriteOptions(
                    compression=job.compression or "fast",
                    coder=job.coder or "best",
                    keep_optimizer=registry.is_own(writer, model) if keep is None else keep,
                    provenance=history,
                    convert=convert.conversion(job, history),
                    meter=lambda tensor: meters.setdefault(identity(tensor), Meter(deflate=True)),
                ),
            )
            outputs.flush(target)
            with Digest(target) as printed:
                _measure_rest(models, meters)
                again = registry.open_model(target)
                if not registry.needs_engine(writer, models[-1]):
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
                    (cost.macs(model), cost.macs(models[-1])),
                )
                report = describe(passage, job.model, target, digest, job.recipe)
                _refuse_nan(report)
                report["output"] = output = _output(job, writer, target, written, printed)
            if header is not None:
                say("measuring the arena")
                output["header"] = convert.write_header(job, target, header, written.facts)
            if job.test is not None:
                say("evaluating")
                report["evaluation"] = evaluate.evaluate(
                    job.recipe, job.test, [(job.model, model), (target, again)], job.trust
                )
            report["warnings"] = [
                *_warnings(passage),
                *registry.warnings(writer, output),
                *_data_warnings(report),
            ]
            report["gates"] = job.recipe.head.gates.judge(report)
            lost = ""
            for kind, draft in drafts.items():
                try:
                    draft.write_text(render(report, kind), encoding="utf-8")
                except OSError as error:
                    lost = f"{pages[kind]}: cannot be written: {error.strerror}"
                    outputs.drop(draft)
            if digest.changed():
                raise InputError(f"{job.model}: changed while modelcut was reading it", "run again")
            outputs.publish()
        if lost:  # the model took longer to make than its report
            there = ", ".join(map(str, outputs.published))
            raise ResourceError(lost, f"written all the same: {there}")
        if kept is not None:
            kept.remove()
        if team is not None:
            team.finish()
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
        model = registry.open_model(path)
        runtime = None
        if recipe:
            runtime = job_start.runtime_for(model, recipe, train, validate, trust or Trust())
        models, outcomes, seconds = (
            fold(model, recipe, say, runtime) if recipe else ([model], [], [])
        )
        meters: dict[build.Identity, Meter] = {}
        _measure_rest(models, meters)
        passage = Passage(
            models,
            recipe.steps if recipe else (),
            outcomes,
            seconds,
            meters,
            macs=(cost.macs(model), cost.macs(models[-1])),
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
        original = registry.open_model(against)
        candidates.insert(0, (against, original))
    for _, candidate in candidates:
        check.check_runnable(candidate, trust)
    say("evaluating")
    report["evaluation"] = evaluate.evaluate(recipe, test, candidates, trust)
    report["warnings"] += _data_warnings(report)
    report["gates"] = recipe.head.gates.judge(report)
    return report
