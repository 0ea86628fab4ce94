"""What was asked for, and whether it goes together: held against each other before any work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from modelcut import formats
from modelcut.cluster import Distribute
from modelcut.coding import Coder
from modelcut.errors import UsageError
from modelcut.model import Model
from modelcut.recipe import Recipe


@dataclass(frozen=True)
class Trust:
    """What of a file's code may run.

    Attributes:
        all: run whatever is in the file.
        custom_objects: a module of the user's own layers, as a path or dotted name; "" for none.
    """

    all: bool = False
    custom_objects: str = ""


@dataclass(frozen=True)
class Job:
    """All that `modelcut run` was told.

    Attributes:
        model: the input file.
        recipe: what to do, and what must hold.
        output: the file to write.
        test: CSV to evaluate both models on; None: no evaluation.
        train: CSV for the steps that train; None: none given.
        validate: CSV for the steps that search; None: a share of `train` is set aside.
        calibrate: CSV with the rows that a .tflite is calibrated on; None: none given.
        trust: what of the file's code may run.
        force: replace an output that modelcut did not write.
        in_place: the output may be the input.
        compression: none, fast or best; None: the default.
        coder: of a packed file; None: the default.
        keep_optimizer: keep the optimizer's state; None: where the output can hold it.
        report: write NAME.report.json and NAME.report.md beside the output.
        lossless: only the container changes: what the input says of its making is kept as it is.
        distribute: on which devices and machines the steps that train do so.
        checkpoint: folder in which the state of a training is kept; None: it is not.
        resume: go on from what is there.
        checkpoint_every: seconds between two states.
    """

    model: Path
    recipe: Recipe
    output: Path
    test: Path | None = None
    train: Path | None = None
    validate: Path | None = None
    calibrate: Path | None = None
    trust: Trust = field(default_factory=Trust)
    force: bool = False
    in_place: bool = False
    compression: formats.Compression | None = None
    coder: Coder | None = None
    keep_optimizer: bool | None = False
    report: bool = True
    lossless: bool = False
    distribute: Distribute = "none"
    checkpoint: Path | None = None
    resume: bool = False
    checkpoint_every: float = 60

    @property
    def header(self) -> Path | None:
        """Where the C array goes that was asked for with a .tflite."""
        wanted = self.recipe.head.export.c_array and self.output.suffix.lower() == ".tflite"
        return self.output.with_suffix(".h") if wanted else None

    @property
    def inputs(self) -> list[Path]:
        """All files that are read: none of them may be lost."""
        data = (self.test, self.train, self.validate, self.calibrate)
        return [self.model, *(path for path in data if path is not None)]


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


def check_options(job: Job, model: Model, writer: formats.Format) -> None:
    """Refuses steps and options that the output's format has no use for.

    Raises:
        UsageError: with what to leave out, or to add.
    """
    engine = formats.needs_engine(writer, model)
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
