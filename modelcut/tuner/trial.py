"""One trial: a recipe is run, measured on validation samples, and its file removed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modelcut.errors import ModelcutError
from modelcut.job import pipeline
from modelcut.job.request import Job, Trust
from modelcut.job.session import Session
from modelcut.recipe.recipe import Recipe, parse
from modelcut.recipe.yaml_text import Document
from modelcut.report.schema import Report
from modelcut.tuner.goal import Goal, highest_drop

FRACTIONS = (1 / 9, 1 / 3)
"""Fractions of the epochs of the first tries of a recipe that trains (Li et al. 2017, eta = 3)."""
_EPOCHS = 5
"""Epochs of a step that says none."""
_STEPS = 1000
"""A shorter training than this many batches costs more to begin than it saves."""


@dataclass(frozen=True)
class Setting:
    """What all trials of a search have in common.

    Attributes:
        model: the model file.
        suffix: suffix of the output, which selects its format.
        folder: a folder for files that are removed again.
        train: CSV of training data; None: none.
        validation: CSV on which the trials are measured; None: none.
        calibrate: CSV of calibration data; None: none.
        trust: which code of the file may run.
        states: folder of the states of finished trainings; None: they are not kept.
        most_states: bytes of such states that are kept.
        options: further options of a job: compression, coder, keep_optimizer.
    """

    model: Path
    suffix: str
    folder: Path
    train: Path | None = None
    validation: Path | None = None
    calibrate: Path | None = None
    trust: Trust = field(default_factory=Trust)
    states: Path | None = None
    most_states: int = 2 << 30
    options: Mapping[str, Any] = field(default_factory=dict)

    def job(self, recipe: Recipe, output: Path, test: Path | None) -> Job:
        """The job of a recipe."""
        calibrated = self.suffix == ".tflite" and recipe.head.export.calibrated
        calibrated |= any("calibration" in step.needs for step in recipe.steps)
        return Job(
            self.model,
            recipe,
            output,
            test=test,
            train=self.train,
            calibrate=self.calibrate if calibrated else None,
            trust=self.trust,
            force=True,
            report=False,
            keep_on_failure=True,
            **self.options,
        )


@dataclass(frozen=True)
class Result:
    """What a trial gave.

    Attributes:
        values: values of the objectives.
        excess: by how much the limits are exceeded, in units of each limit; 0: all hold.
        doubt: the same with the goal's confidence, where a drop of accuracy is as high as its
            interval's upper end.
        seconds: wall time of the trial.
        error: why it failed; "" where it did not.
        fraction: fraction of the epochs that was trained.
        measured: numbers for the table of trials.
        gates: the gates' verdicts.
        blake3: BLAKE3 of the file that was written.
        worker: name of the worker that did it.
    """

    values: tuple[int | float, ...] = ()
    excess: float = float("inf")
    doubt: float = float("inf")
    seconds: float = 0.0
    error: str = ""
    fraction: float = 1.0
    measured: Mapping[str, Any] = field(default_factory=dict)
    gates: tuple[Mapping[str, Any], ...] = ()
    blake3: str = ""
    worker: str = ""

    @property
    def feasible(self) -> bool:
        """Whether it was measured and all limits hold."""
        return not self.error and self.excess == 0

    @property
    def sure(self) -> bool:
        """Whether all limits hold with the goal's confidence."""
        return self.feasible and self.doubt == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        lists = {"values": list(self.values), "gates": list(self.gates)}
        return {**asdict(self), **lists, "sure": self.sure}


class Runner:
    """Does trials one after another, in one process whose engine stays loaded."""

    def __init__(self, setting: Setting, goal: Goal) -> None:
        """Starts nothing yet."""
        self._setting = setting
        self._goal = goal
        self._session = Session(setting.states, setting.most_states)

    def run(
        self, recipe: Mapping[str, Any], number: int, fraction: float = 1.0, worker: str = ""
    ) -> Result:
        """Runs a recipe and measures what comes of it; an error is a result.

        Args:
            recipe: the recipe as plain data.
            number: number of the trial, for the name of its file.
            fraction: fraction of the epochs that is trained.
            worker: name of this process.
        """
        began = time.perf_counter()
        setting = self._setting
        output = setting.folder / f"trial-{number}-{fraction:.2f}{worker}{setting.suffix}"
        try:
            made = parse(Document(f"trial {number}", scaled(recipe, fraction)))
            job = setting.job(made, output, setting.validation)
            report = pipeline.run(job, session=self._session)
        except ModelcutError as error:
            took = time.perf_counter() - began
            return Result(error=str(error), seconds=took, fraction=fraction, worker=worker)
        finally:
            _remove(output)
        assert isinstance(report, Report)
        judged = self._goal.judge(report)
        return Result(
            judged.values,
            judged.excess,
            judged.doubt,
            time.perf_counter() - began,
            fraction=fraction,
            measured=measured(report),
            gates=report.gates,
            blake3=report.output.blake3 if report.output else "",
            worker=worker,
        )


def scaled(recipe: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """A recipe that trains so many times its epochs or batches, at least one in each step."""
    steps = []
    for step in recipe["steps"]:
        found = dict(step)
        for field_, length in zip(("epochs", "steps"), length_of(found), strict=True):
            if factor != 1 and length:
                found[field_] = max(1, round(factor * length))
        steps.append(found)
    return {**recipe, "steps": steps}


def length_of(step: Mapping[str, Any]) -> tuple[float, float]:
    """The epochs and the batches of a step, as it stands in a recipe: one of them, or none."""
    if "finetune" not in step:
        return 0, 0
    if step.get("steps"):
        return 0, float(step["steps"])
    return float(step.get("epochs") or _EPOCHS), 0


def batches_of(recipe: Mapping[str, Any]) -> float:
    """The batches of all trainings of a recipe whose lengths are in batches."""
    return sum(length_of(step)[1] for step in recipe["steps"])


def fractions(recipe: Mapping[str, Any]) -> tuple[float, ...]:
    """Which fractions of a recipe's training are tried before the whole."""
    lengths = [length_of(step) for step in recipe["steps"]]
    epochs = sum(length for length, _ in lengths)
    batches = batches_of(recipe)
    return tuple(part for part in FRACTIONS if part * epochs >= 1 or part * batches >= _STEPS)


def measured(report: Report) -> dict[str, Any]:
    """The numbers of a report that tables of trials show."""
    found: dict[str, Any] = {
        "bytes": report.output.bytes if report.output else None,
        "parameters": report.sizes.after.totals.parameters,
        "macs": report.sizes.after.macs,
    }
    if report.evaluation is not None:
        metrics = report.evaluation.after["metrics"]
        names = ("accuracy", "f1_macro", "recall_macro", "log_loss", "mae", "rmse", "r2")
        found |= {name: metrics[name] for name in names if metrics.get(name) is not None}
        latency = report.evaluation.after.get("latency")
        if latency:
            found["latency_ms"] = latency["median_ms"]
        drop = (report.evaluation.change or {}).get("accuracy_drop")
        if drop is not None:
            found["accuracy_drop"] = drop
            found["drop_error"] = highest_drop(drop, report, 1.0) - drop
        found["samples"] = report.evaluation.after["rows"]
    return found


def _remove(output: Path) -> None:
    import shutil

    if output.is_dir():
        shutil.rmtree(output, ignore_errors=True)
        return
    for path in (output, output.with_suffix(".h")):
        path.unlink(missing_ok=True)
