"""Everything that is refused before any work is done."""

from __future__ import annotations

from pathlib import Path

from modelcut.errors import UsageError
from modelcut.formats import base, registry
from modelcut.job.convert import _check_layers, own_objects
from modelcut.job.request import Job, Trust
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe


def check_needs(
    recipe: Recipe,
    train: Path | None,
    validate: Path | None,
    test: Path | None,
    *,
    dry: bool = False,
) -> None:
    """Holds what the recipe needs against what was given.

    Raises:
        UsageError: with what to add.
    """
    for index, step in enumerate(recipe.steps):
        if "train" in step.wants and train is None:
            raise UsageError(
                f"step {index + 1}, {step.title}: needs training data", "add --train FILE.csv"
            )
        if "validation" not in step.wants:
            continue
        if train is None and validate is None:
            raise UsageError(
                f"step {index + 1}, {step.title}: a budget needs validation data",
                "add --validate FILE.csv, or --train FILE.csv, of which a tenth is set aside",
            )
        if validate is not None and test is not None and validate.resolve() == test.resolve():
            raise UsageError(
                f"step {index + 1}, {step.title}: --validate and --test are the same file",
                "what is chosen on the test data cannot be judged by it",
            )
    if test is None and not dry and recipe.head.gates.needing_data():
        names = ", ".join(recipe.head.gates.needing_data())
        raise UsageError(f"the gate {names} needs test data", "add --test FILE.csv")


def check_options(job: Job, model: Model, writer: base.Format) -> None:
    """Refuses steps and options that the output's format has no use for.

    Raises:
        UsageError: with what to leave out, or to add.
    """
    engine = registry.needs_engine(writer, model)
    ask = getattr(writer, "fixed_graph", None)
    fixed = ask(model) if ask is not None else ""
    for index, step in enumerate(job.recipe.steps if fixed else ()):
        if "graph" in step.needs and model.architecture is not None:
            raise UsageError(f"{job.output}: step {index + 1}, {step.title}: {fixed}")
    saved = any(name.startswith("saved_model") for name in (model.origin.format, writer.NAME))
    if job.recipe.head.data.signature and not saved:
        raise UsageError(f"--signature: {job.model} is no SavedModel and has none", "leave it out")
    if job.coder is not None and writer.NAME != "mcut":
        raise UsageError(f"--coder: {job.output} is no packed file", "name the output .mcut")
    own = getattr(writer, "OWN_CODING", "")
    if job.compression is not None and own:
        raise UsageError(f"--compression: {job.output}: {own}", "leave it out")
    if engine and job.keep_optimizer:
        raise UsageError(f"--keep-optimizer: {job.output} has no place for it", "leave it out")
    if writer.NAME != "litert":
        return
    options = job.recipe.head.export
    if options.calibrated and job.calibrate is None:
        raise UsageError(
            f"a .tflite of type {options.type} needs calibration rows",
            "add --calibrate FILE.csv, with rows like those of the training",
        )
    if not options.calibrated and job.calibrate is not None:
        raise UsageError(f"a .tflite of type {options.type} is not calibrated", "--type int8 is")


def check_runnable(model: Model, trust: Trust) -> None:
    """Refuses what an engine must not be started on."""
    if not registry.check_runnable(model, trust=trust.all):
        _check_layers(model, trust=trust.all, custom=own_objects(trust))
