"""Evaluating models as they are: `eval`."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from modelcut import safety
from modelcut.data.sources import check_source
from modelcut.errors import UsageError
from modelcut.formats import registry
from modelcut.job import simulated
from modelcut.job.check import check_runnable
from modelcut.job.describe import data_warnings
from modelcut.job.evaluate import check_test, evaluate, open_evaluator, warm
from modelcut.job.inspect import look
from modelcut.job.request import Say, Trust
from modelcut.job.verify import refuse_nan
from modelcut.metrics.limits import uncertain
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe
from modelcut.report import build
from modelcut.report.schema import Report


def assess(
    path: Path,
    against: Path | None,
    test: Path,
    recipe: Recipe,
    trust: Trust,
    say: Say,
    *,
    activations: int = 0,
    calibrate: Path | None = None,
) -> Report:
    """Evaluates a model, beside another one if given; nothing is written.

    Args:
        path: the model.
        against: the reference.
        test: CSV of test data.
        recipe: data options and gates.
        trust: which code of the files may run.
        say: takes a line about progress.
        activations: bits of activations with which it is evaluated as well; 0: it is not.
        calibrate: CSV of the samples that give their ranges.

    Returns:
        A report whose input is the model itself, with the gates judged.
    """
    if against is not None:
        safety.check_path(against)
    check_source(test)
    if activations and activations not in simulated.BITS:
        raise UsageError(f"--activations {activations}: activations have 4 to 8 bits")
    if activations and calibrate is None:
        raise UsageError(
            "--activations needs samples that give the ranges of activations",
            "add --calibrate FILE.csv, with samples like those of the training data",
        )
    if calibrate is not None:
        if not activations:
            raise UsageError("--calibrate is for --activations", "leave it out")
        check_source(calibrate)
    say("opening the model")

    def prepare(model: Model) -> None:
        check_runnable(model, trust)
        if model.origin.path == (path if against is None else against):
            check_test(recipe, test, model)  # its names are those of `--inputs` and `--label`
            warm(model, trust)

    with contextlib.ExitStack() as opened:
        model, report = opened.enter_context(look(path, opened=prepare))
        refuse_nan(report)
        simulation = None
        if activations and calibrate is not None:
            simulated.check(model)
            simulation = simulated.Simulation(model, activations, calibrate)
        original, reference = (path, model), None
        if against is not None:
            beside, reference = opened.enter_context(look(against, opened=prepare))
            original = (against, beside)
        evaluator = open_evaluator(
            recipe,
            test,
            *original,
            trust,
            beside=registry.of_model(model).signatures,
            compared=against is not None,
            say=say,
        )
        after = (path, model) if against is not None else None
        names = ("the reference", "the model")
        evaluation = evaluate(recipe, evaluator, after, original[1], trust, names, say, simulation)
    report = replace(report, evaluation=evaluation)
    if reference is not None:
        sizes = build.beside(reference.sizes, report.sizes)
        more = original[1].origin.optimizer_bytes - model.origin.optimizer_bytes
        sizes = build.with_left_out(sizes, max(0, more))
        report = replace(report, against=reference.input, sizes=sizes)
    gates = recipe.head.gates
    verdicts = tuple(gates.judge(report))
    warnings = (*report.warnings, *data_warnings(report, gates), *uncertain(verdicts))
    return replace(report, warnings=warnings, gates=verdicts)
