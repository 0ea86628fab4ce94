"""Whether a search chose on samples that the original was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelcut.metrics.intervals import higher
from modelcut.report.schema import Evaluation

_CHANCE = 0.05
"""A difference that is less likely by chance is told."""
_FEW = 50
"""Fewer samples than this are often all decided rightly."""


def warnings_of(search: Mapping[str, Any] | None, evaluation: Evaluation | None) -> list[str]:
    """A warning where the original is better on the validation samples than it can be on others.

    It remembers what it was trained with. What a candidate has forgotten that was trained counts as
    lost; one that was not trained remembers more of them than it can tell of others.

    Args:
        search: how the recipe was chosen, as in the report; None: it was not.
        evaluation: the evaluation on the test data; None: there is none.
    """
    validation = (search or {}).get("validation") or {}
    accuracy, rows = validation.get("original_accuracy"), int(validation.get("samples") or 0)
    if accuracy is None or rows < _FEW:
        return []
    where = f"the original is right on {accuracy:.2%} of the {rows} validation samples"
    before = evaluation.before if evaluation is not None else None
    tested = before["metrics"].get("accuracy") if before else None
    if before is None or tested is None:
        if accuracy < 1:
            return []
    else:
        others = int(before["rows"])
        if higher(round(accuracy * rows), rows, round(tested * others), others) > _CHANCE:
            return []
        where += f" and on {tested:.2%} of the test samples"
    return [
        f"{where}, as where it was trained with the former: a drop on them is not that on others "
        "(higher where steps train, lower where none does); --validate FILE of samples that it "
        "has not seen"
    ]
