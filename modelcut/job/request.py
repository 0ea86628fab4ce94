"""What was asked for, and whether it goes together: held against each other before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelcut.engines.keras.cluster import Distribute
from modelcut.formats import base
from modelcut.formats.base import Coder
from modelcut.recipe.recipe import Recipe


@dataclass(frozen=True)
class Trust:
    """What of a file's code may run.

    Attributes:
        all: whether any code in the file may run.
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
        validate: CSV for the steps that search; None: a fraction of `train` is set aside.
        calibrate: CSV with the rows that a .tflite is calibrated on; None: none given.
        trust: which code of the file may run.
        force: replace an output that modelcut did not write.
        in_place: the output may be the input.
        compression: none, fast or best; None: the default.
        coder: entropy coder of a packed file; None: the default.
        keep_optimizer: keep the optimizer's state; None: where the output can hold it.
        sha256: report the SHA-256 of input and output too.
        full_report: code large tensors for what they would deflate to, where pieces would tell.
        report: write NAME.report.json, .md and .html beside the output.
        lossless: only the container changes: what the input says of its making is kept as it is.
        distribute: on which devices and machines the steps that train do so.
        checkpoint: folder for the state of a training; None: the state is not saved.
        resume: whether to resume from the checkpoint in the folder.
        keep_on_failure: where a gate fails, write the output at its place all the same; by default
            it goes to `failed_place`, and what is at its place stays.
        checkpoint_every: seconds between two checkpoints.
        search: where the recipe was chosen by a search: how, as plain data, for the report.
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
    compression: base.Compression | None = None
    coder: Coder | None = None
    keep_optimizer: bool | None = False
    sha256: bool = False
    full_report: bool = False
    report: bool = True
    lossless: bool = False
    distribute: Distribute = "none"
    checkpoint: Path | None = None
    resume: bool = False
    checkpoint_every: float = 60
    keep_on_failure: bool = False
    search: Mapping[str, Any] | None = None

    @property
    def judged(self) -> bool:
        """Whether a failed gate decides where the output goes."""
        return not self.keep_on_failure and any(True for _ in self.recipe.head.gates.items())

    @property
    def header(self) -> Path | None:
        """Where the C array goes that was asked for with a .tflite."""
        wanted = self.recipe.head.export.c_array and self.output.suffix.lower() == ".tflite"
        return self.output.with_suffix(".h") if wanted else None

    @property
    def inputs(self) -> list[Path]:
        """The model and all data that is read."""
        data = (self.test, self.train, self.validate, self.calibrate)
        return [self.model, *(path for path in data if path is not None)]

    @property
    def sources(self) -> list[Path]:
        """All files that are read, the recipe and the user's code too: none of them may be lost."""
        others = (self.recipe.name, self.trust.custom_objects)
        return [*self.inputs, *(Path(name) for name in others if name and Path(name).is_file())]


Say = Callable[[str], None]
