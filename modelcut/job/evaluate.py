"""The stage that evaluates the original and the written model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelcut.job.request import Trust
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe

if TYPE_CHECKING:
    from modelcut.job import inference
from modelcut.job.convert import _network


def evaluate(
    recipe: Recipe,
    evaluator: inference.Evaluator,
    other: tuple[Path, Model] | None,
    original: Model,
    trust: Trust,
) -> dict[str, Any]:
    """Runs one or two networks over a CSV.

    Args:
        recipe: with the data.
        evaluator: of the original, or of the only model.
        other: the model that is compared with the original.
        original: the evaluator's.
        trust: what of the file's code may run.

    Returns:
        The report's `evaluation`: the only model stands as `after`.
    """
    from modelcut.metrics import accumulators

    network = None
    if other is not None:
        folder = original.origin.format == "saved_model"
        network = _network(recipe, *other, trust, beside=folder)
    results, agreement = evaluator.run(network)
    parts = [result.to_dict() for result in results]
    test = str(evaluator.table.path)
    answer: dict[str, Any] = {"test": test, "before": None, "after": parts[-1]}
    if len(parts) == 2:
        answer["before"] = parts[0]
        answer["change"] = accumulators.compare(parts[0]["metrics"], parts[1]["metrics"])
        answer["agreement"] = agreement
    return answer
