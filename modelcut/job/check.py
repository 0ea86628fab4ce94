"""Everything that is refused before any work is done."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelcut import safety
from modelcut.data.sources import check_source
from modelcut.errors import InputError, UsageError
from modelcut.formats import base, registry
from modelcut.graph import scan
from modelcut.job import limits
from modelcut.job.request import Job, Trust
from modelcut.job.watched import reading
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe
from modelcut.steps.base import with_training_data


@dataclass(frozen=True)
class Checked:
    """A job that can be done, as far as that can be told before it is.

    Attributes:
        job: the job as it was requested.
        model: the input, opened.
        writer: format that the output is written in.
    """

    job: Job
    model: Model
    writer: base.Format

    @property
    def converts(self) -> bool:
        """Whether an engine makes the output."""
        return self.writer.needs_engine(self.model)


def check_request(job: Job) -> None:
    """Refuses what can be told without opening the model.

    Raises:
        UsageError: data is missing, or an input is no local file.
        InputError: an input is empty.
    """
    check_needs(job.recipe, job.train, job.validate, job.test, calibrate=job.calibrate)
    if not job.output.name:
        raise UsageError(f"{job.output}: is a folder", "name a file")
    safety.check_path(job.model)
    for path in job.inputs[1:]:
        check_source(path)


def check(job: Job) -> Checked:
    """Opens the model and refuses a job that cannot be done.

    Returns:
        The job, with the model open: who asks closes it.

    Raises:
        UsageError: an option or a step does not go with the model or the output.
        InputError: the model is broken, or cannot be run where it must be.
        UnsafeError: it carries code, and is not trusted.
    """
    with reading(job.model):
        model = registry.open_model(job.model)
    try:
        checked = Checked(job, model, registry.for_output(job.output, model))
        check_options(job, model, checked.writer)
        if job.test is not None or checked.converts:
            check_runnable(model, job.trust)
    except BaseException:
        model.close()
        raise
    return checked


def check_needs(
    recipe: Recipe,
    train: Path | None,
    validate: Path | None,
    test: Path | None,
    *,
    calibrate: Path | None = None,
    dry: bool = False,
) -> None:
    """Holds what the recipe needs against what was given.

    Raises:
        UsageError: with what to add.
    """
    for index, step in enumerate(recipe.steps):
        if "train" in step.needs:
            with_training_data(train, index, step.title)
        if "calibration" in step.needs and calibrate is None and train is None:
            raise UsageError(
                f"step {index + 1}, {step.title}: needs calibration data",
                "add --calibrate FILE.csv, or --train FILE.csv; labels are not needed",
            )
        if "validation" not in step.needs:
            continue
        if train is None and validate is None:
            raise UsageError(
                f"step {index + 1}, {step.title}: a budget needs validation data",
                "add --validate FILE.csv, or --train FILE.csv, of which a tenth is set aside",
            )
        if validate is not None and test is not None and validate.resolve() == test.resolve():
            raise UsageError(
                f"step {index + 1}, {step.title}: --validate and --test are the same file",
                "a setting that is chosen on the test data cannot be evaluated on it",
            )
    if test is None and not dry and recipe.head.gates.needing_data():
        names = ", ".join(recipe.head.gates.needing_data())
        raise UsageError(f"the gate {names} needs test data", "add --test FILE.csv")


def check_installed(output: Path, writer: base.Format) -> None:
    """Refuses an output whose format needs packages that are not there.

    Raises:
        UsageError: with what to install.
    """
    if lacking := writer.missing():
        what, _, hint = lacking.partition(": ")
        raise UsageError(f"{output}: what makes it is not installed ({what})", hint)


def check_options(job: Job, model: Model, writer: base.Format) -> None:
    """Refuses steps and options that the output's format has no use for.

    Raises:
        UsageError: with what to leave out, or to add.
    """
    engine = writer.needs_engine(model)
    check_installed(job.output, writer)
    fixed = writer.fixed_graph(model)
    for index, step in enumerate(job.recipe.steps if fixed else ()):
        if "graph" in step.needs and model.architecture is not None:
            raise UsageError(f"{job.output}: step {index + 1}, {step.title}: {fixed}")
    for index, step in enumerate(job.recipe.steps):
        if reason := step.unwritable(model, writer.name):
            raise UsageError(f"{job.output}: step {index + 1}, {step.title}: {reason}")
    signatures = registry.of_model(model).signatures or writer.signatures
    if job.recipe.head.data.signature and not signatures:
        raise UsageError(
            f"--signature: {job.model} is not a SavedModel and has no signatures", "leave it out"
        )
    if job.coder is not None and not writer.entropy_coded:
        raise UsageError(f"--coder: {job.output} is not a packed file", "name the output .mcut")
    if job.compression is not None and writer.own_coding:
        raise UsageError(f"--compression: {job.output}: {writer.own_coding}", "leave it out")
    if engine and job.keep_optimizer:
        raise UsageError(
            f"--keep-optimizer: {job.output} cannot hold an optimizer state", "leave it out"
        )
    options = job.recipe.head.export
    used = any("calibration" in step.needs for step in job.recipe.steps)
    if not writer.converted:
        if job.calibrate is not None and not used:
            raise UsageError(
                f"--calibrate is for steps that look at outputs, and for a .tflite; not for "
                f"{job.output.name} by this recipe",
                "--rounding gptq, --range output and --correct use it",
            )
        return
    if reason := writer.unconvertible(model, options.type):
        raise InputError(
            f"{job.model}: {reason}",
            "--type dynamic takes it: weights of 8 bits, activations in floats",
        )
    if options.calibrated and job.calibrate is None:
        raise UsageError(
            f"a .tflite of type {options.type} needs a calibration set",
            "add --calibrate FILE.csv, with samples like those of the training data",
        )
    if options.layer_errors and job.calibrate is None:
        raise UsageError(
            "--layer-errors needs samples to run the networks on",
            "add --calibrate FILE.csv; labels are not needed",
        )
    layers = model.architecture is not None and not registry.of_model(model).signatures
    if options.layer_errors and not layers:
        raise UsageError(f"--layer-errors: {job.model} says nothing of its layers", "leave it out")
    used = used or options.layer_errors
    if not options.calibrated and job.calibrate is not None and not used:
        raise UsageError(f"a .tflite of type {options.type} is not calibrated", "--type int8 is")


def own_objects(trust: Trust) -> dict[str, Any]:
    """The user's own classes and functions by name; {} where none were given.

    Raises:
        UsageError: their module cannot be imported.
    """
    if not trust.custom_objects:
        return {}
    from modelcut import engines

    return engines.load_custom_objects(trust.custom_objects)


def check_runnable(model: Model, trust: Trust, custom: Mapping[str, Any] | None = None) -> None:
    """Refuses a model that an engine must not be started on, or cannot run.

    Args:
        model: the model that is to be run.
        trust: which code of the file may run.
        custom: the user's own classes and functions; None: those of `trust`.

    Raises:
        InputError: there is no network in the file.
        UnsafeError: it carries code, and is not trusted.
    """
    if registry.check_runnable(model, trust=trust.all):
        return
    from modelcut import engines

    check_trainable(
        model,
        trust=trust.all,
        custom=engines.names_of(own_objects(trust) if custom is None else custom),
        otherwise="evaluate the whole model, or leave out --test",
    )


def check_trainable(
    model: Model, *, trust: bool, custom: Collection[str], otherwise: str = "give the whole model"
) -> None:
    """Refuses a model whose weights an engine can neither train nor try out.

    Args:
        model: the model that is to be run.
        trust: whether code in the file may run.
        custom: names of the user's own classes and functions.
        otherwise: what to do where the file has no network.

    Raises:
        InputError: there is no network in the file.
        UnsafeError: it carries code, and is not trusted.
    """
    reason, instead = registry.of_model(model).untrainable(model)
    if reason:
        raise InputError(f"{model.origin.path}: {reason}", instead)
    if model.architecture is None and not model.origin.configuration:
        raise InputError(
            f"{model.origin.path}: holds weights only, no network that could be run", otherwise
        )
    where = str(model.origin.path)
    found = base.Format.dangers(registry.of_model(model), model)
    scan.check(found, where=where, trust=trust, custom=custom)
    limits.check_engine(model)
