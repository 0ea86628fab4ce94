"""The stage that compares the written file with what was meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelcut.errors import InputError, InternalError
from modelcut.formats import registry
from modelcut.job.check import Checked
from modelcut.job.fold import Folded
from modelcut.job.write import Draft
from modelcut.model import keras_ints
from modelcut.model.measure import Meter
from modelcut.model.model import Model
from modelcut.report import build
from modelcut.report.build import identity
from modelcut.report.schema import Report


def verify(checked: Checked, folded: Folded, draft: Draft) -> Model:
    """Opens the written file as a stranger's, and compares it with what was meant.

    Returns:
        The written model, open.

    Raises:
        InternalError: layers or shapes differ.
    """
    measure_rest(folded.models, draft.meters, full=checked.job.full_report)
    again = registry.open_model(draft.path)
    try:
        if not checked.writer.needs_engine(folded.models[-1]):
            check_same(folded.models[-1], again, checked.job.output)
    except BaseException:
        again.close()
        raise
    return again


def measure_rest(
    models: Sequence[Model], meters: dict[build.Identity, Meter], *, full: bool = False
) -> None:
    """Pulls the tensors that no writer pulled: those that a step replaced by others.

    Args:
        models: the model as it was read, and after each step.
        meters: of the tensors that were pulled; those of the others are added.
        full: measure by coding all what pieces would tell.
    """
    for model in reversed(models):
        for tensor in model.tensors:
            if identity(tensor) not in meters:
                meters[identity(tensor)] = meter = Meter(deflate=True, full=full)
                stream = tensor.stream(meter)
                if stream is None:
                    tensor.pull(meter)
                else:
                    stream.measure()


def refuse_nan(report: Report) -> None:
    """Refuses a network that diverged in training: there is nothing left in it to compress.

    Raises:
        InputError: all values of a tensor are NaN or infinite.
    """
    for layer in report.layers:
        for row in layer.tensors:
            if row.before.size and row.before.nonfinite == row.before.size:
                raise InputError(
                    f"{report.input.path}: {row.name}: all values are NaN or infinite",
                    "the training diverged; use an earlier checkpoint",
                )


def check_same(model: Model, again: Model, output: Path) -> None:
    """Holds the written file, read as a stranger's, against what was meant: layers and shapes."""
    fixed = {layer.path for layer in model.layers if keras_ints.is_int(layer)}
    again = keras_ints.thawed(again, lambda layer: layer.path not in fixed)
    meant = {(tensor.name, tensor.shape) for tensor in model.tensors}
    found = {(tensor.name, tensor.shape) for tensor in again.tensors}
    if meant != found:
        odd = sorted(name for name, _ in meant ^ found)[:3]
        raise InternalError(
            f"{output}: the written file does not read back the same ({', '.join(odd)})",
            "internal error of modelcut: please report it with the input",
        )
