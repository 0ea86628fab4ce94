"""One job: check, fold, write, verify, describe, evaluate, judge, and only then publish.

What is reported is what was written: sizes from the meters that watched the writer, metrics from
the written file. Nothing appears at the output's place before all of it is done.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from modelcut.arrays import buffers
from modelcut.arrays.clock import Clock
from modelcut.errors import InputError, ResourceError
from modelcut.job import convert, provenance, seen, start
from modelcut.job.check import Checked, check, check_request
from modelcut.job.describe import data_warnings, describe, output_of, passage_of, warnings_of
from modelcut.job.digest import Digest
from modelcut.job.evaluate import check_test, evaluate, open_evaluator, warm
from modelcut.job.fold import Folded, fold
from modelcut.job.outputs import Outputs
from modelcut.job.request import Job, Say
from modelcut.job.unchanged import Inputs
from modelcut.job.verify import refuse_nan, verify
from modelcut.job.write import Draft, Places, failures_of, reserve, write
from modelcut.metrics.limits import uncertain
from modelcut.model.model import Model
from modelcut.report import build, render
from modelcut.report.build import Passage
from modelcut.report.schema import Report, TriedRecipe, Worker

if TYPE_CHECKING:
    from modelcut.job.checkpoint import Checkpoint
    from modelcut.job.inference import Evaluator
    from modelcut.job.session import Session, States
    from modelcut.job.simulated import Simulation


def run(
    job: Job,
    say: Say = lambda _: None,
    session: Session | None = None,
    tried: tuple[TriedRecipe, ...] = (),
) -> Report | Worker:
    """Does the whole job and returns the report; its `passed` tells whether the gates passed.

    A worker that is not the chief of a distributed training does its share, waits until the chief
    has written, and returns a `Worker`.

    Args:
        job: what is asked for.
        say: takes a line about progress.
        session: what this job shares with others on the same model; None: nothing.
        tried: the recipes that this one was chosen of, for the report.

    Raises:
        ModelcutError: with the exit code; nothing is left behind.
    """
    check_request(job)
    say("opening the model")
    with (
        Clock("open") as clock,
        Digest(job.model, sha256=job.sha256) as digest,
        contextlib.ExitStack() as opened,
    ):
        opened.enter_context(buffers.kept())
        checked = check(job)
        inputs = opened.enter_context(Inputs(job))
        model = opened.enter_context(checked.model)
        team = start.team_for(job, digest)
        if job.test is not None and session is None:
            check_test(job.recipe, job.test, model)
        runtime = start.runtime_for(
            model, job.recipe, job.train, job.validate, job.trust, team, job.calibrate, say
        )
        if job.test is not None and runtime is None:
            warm(model, job.trust)
        chief = team is None or team.chief
        kept: Checkpoint | States | None = start.checkpoint_for(job, digest, writes=chief)
        if kept is None and session is not None:
            kept = session.kept(job, digest)
        if team is not None and not chief:
            fold(model, job.recipe, say, runtime, kept)
            team.finish()
            return Worker(team.worker, team.workers)
        evaluator = None
        costly = any(step.needs for step in job.recipe.steps)
        if job.test is not None and (costly or job.recipe.head.gates.needing_data()):
            # A gate that nothing can judge, and labels that do not fit, are refused before work.
            clock.begin("evaluate")
            evaluator = _evaluator(checked, session, say, apart=runtime is None)
        with Outputs(
            job.sources, force=job.force, in_place=job.in_place, ours=provenance.is_ours
        ) as outputs:
            clock.begin("survey")
            places = reserve(checked, outputs)
            say("planning")
            folded = fold(model, job.recipe, say, runtime, kept)
            clock.begin("write")
            say("writing")
            history = partial(provenance.of, job, model, digest)
            draft = write(checked, folded, places.model, history, say)
            clock.begin("verify")
            outputs.flush(places.model)
            with Digest(places.model, sha256=job.sha256) as printed:
                again = opened.enter_context(verify(checked, folded, draft))
                passage = passage_of(folded, job.recipe, draft.meters, draft.written)
                clock.begin("hash")  # what it has to wait for
                report = _described(checked, passage, draft, digest, printed)
            looks = job.recipe.head.export.layer_errors
            if job.test is not None or places.header is not None or looks:
                clock.begin("evaluate")
            if job.test is not None and evaluator is None:
                evaluator = _evaluator(checked, session, say, apart=runtime is None)
            report = _measured(checked, folded, draft, places, again, report, evaluator, say)
            report = _judged(checked, passage, report, runtime.notes if runtime else ())
            report = replace(
                report,
                data=inputs.files(),
                fingerprint=inputs.fingerprint(digest.blake3),
                tried=tried,
            )
            report = _placed(checked, report, places, outputs)
            report = replace(report, seconds=clock.seconds(), cpu_seconds=clock.cpu_seconds())
            clock.begin("publish")
            lost = _publish(job, report, places, outputs, digest)
        if report.passed:
            for failed, _ in failures_of(checked):
                _remove(failed)
        if lost:  # the model took longer to make than its report
            there = ", ".join(map(str, outputs.published))
            raise ResourceError(lost, f"written all the same: {there}")
        if kept is not None:
            kept.remove()
        if team is not None:
            team.finish()
        return replace(report, seconds=clock.seconds(), cpu_seconds=clock.cpu_seconds())


def _described(
    checked: Checked, passage: Passage, draft: Draft, digest: Digest, printed: Digest
) -> Report:
    """The report as far as it does not need the network to run."""
    job = checked.job
    report = describe(passage, job.model, draft.path, digest, job.recipe)
    refuse_nan(report)
    sizes, origin = report.sizes, checked.model.origin
    if set(origin.dropped) & set(draft.written.dropped):
        sizes = build.with_left_out(sizes, origin.optimizer_bytes)
    output = output_of(job, checked.writer, draft, printed)
    plain = job.compression == "none" or (
        bool(checked.writer.own_coding) and not checked.writer.entropy_coded
    )
    sizes = build.with_weights(sizes, "none" if plain else "deflate", output.facts)
    return replace(report, output=output, sizes=sizes)


def _measured(
    checked: Checked,
    folded: Folded,
    draft: Draft,
    places: Places,
    again: Model,
    report: Report,
    evaluator: Evaluator | None,
    say: Say,
) -> Report:
    """The report with what takes an engine."""
    job = checked.job
    if places.header is not None:
        assert report.output is not None
        say("measuring the arena")
        header = convert.write_header(job, draft.path, places.header, draft.written.facts)
        report = replace(report, output=replace(report.output, header=header))
    if checked.writer.converted and job.recipe.head.export.layer_errors:
        say("comparing the layers")
        report = replace(report, layer_errors=convert.layer_errors(job, folded, draft.path))
    if evaluator is not None:
        say("evaluating")
        written = (draft.path, again)
        evaluation = evaluate(
            job.recipe,
            evaluator,
            written,
            checked.model,
            job.trust,
            say=say,
            simulation=_simulation(checked, folded),
        )
        report = replace(report, evaluation=evaluation)
    return report


def _simulation(checked: Checked, folded: Folded) -> Simulation | None:
    """The result in simulated integers, where a step has trained it for these.

    A `.tflite` computes in its own types.
    """
    job = checked.job
    bits = [step.activation_bits for step in job.recipe.steps if step.activation_bits]
    samples = job.calibrate or job.train
    if not bits or samples is None or checked.writer.converted:
        return None
    from modelcut.job.simulated import Simulation

    return Simulation(folded.models[-1], bits[-1], samples)


def _judged(checked: Checked, passage: Passage, report: Report, notes: Sequence[str]) -> Report:
    """The report with its warnings, and each gate passed or failed."""
    assert report.output is not None
    gates = checked.job.recipe.head.gates
    layers = report.layer_errors
    warnings = (
        *warnings_of(passage),
        *([f"--layer-errors: not measured: {layers.why}"] if layers and layers.why else []),
        *checked.writer.warnings(report.output),
        *data_warnings(report, gates, notes),
    )
    chosen = checked.job.search
    verdicts = tuple(gates.judge(report))
    warnings += (*(chosen or {}).get("warnings", ()), *uncertain(verdicts))
    warnings += tuple(seen.warnings_of(chosen, report.evaluation))
    report = replace(report, warnings=warnings, gates=verdicts, search=chosen)
    return replace(report, notes=tuple(build.notes(report, gates)))


def _placed(checked: Checked, report: Report, places: Places, outputs: Outputs) -> Report:
    """The report with the place of the output, which is another one where a gate failed."""
    failures = failures_of(checked)
    if report.passed or not failures:
        return report
    assert report.output is not None
    (model, _), *headers = failures
    outputs.redirect(places.model, model)
    output = replace(report.output, path=str(model))
    if places.header is not None and output.header is not None:
        outputs.redirect(places.header, headers[0][0])
        output = replace(output, header={**output.header, "path": str(headers[0][0])})
    return replace(report, output=output)


def _remove(failed: Path) -> None:
    """Removes what an earlier run wrote whose gates failed."""
    if not (failed.exists() and provenance.is_ours(failed)):
        return
    with contextlib.suppress(OSError):
        if failed.is_dir():
            shutil.rmtree(failed)
        else:
            failed.unlink()


def _evaluator(checked: Checked, session: Session | None, say: Say, *, apart: bool) -> Evaluator:
    """The original's network on the test data."""
    if session is not None:
        return session.evaluator(checked, apart=apart, say=say)
    job = checked.job
    assert job.test is not None
    return open_evaluator(
        job.recipe,
        job.test,
        job.model,
        checked.model,
        job.trust,
        beside=checked.writer.signatures,
        compared=True,
        apart=apart,
        say=say,
    )


def _publish(job: Job, report: Report, places: Places, outputs: Outputs, digest: Digest) -> str:
    """Writes the reports, and puts everything at its place.

    Returns:
        Which report could not be written, the first of them, and why; "" where all are.

    Raises:
        InputError: the input changed meanwhile.
    """
    lost = ""
    for form, draft in places.reports.items():
        try:
            draft.write_text(render(report, form), encoding="utf-8")
        except OSError as error:
            page = provenance.report_paths(job.output)[form]
            lost = lost or f"{page}: cannot be written: {error.strerror}"
            outputs.drop(draft)
    if digest.changed():
        raise InputError(f"{job.model}: changed while modelcut was reading it", "run again")
    outputs.publish()
    return lost
