"""The stage that compares the written file with what was meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelcut.errors import InputError, ModelcutError
from modelcut.model.measure import Meter
from modelcut.model.model import Model
from modelcut.report import build
from modelcut.report.build import identity


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
            "internal error of modelcut: please report it with the input",
        )
