"""The stage that evaluates the original and the written model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelcut.formats import registry
from modelcut.job.convert import _without_running, own_objects
from modelcut.job.request import Trust
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe


def evaluate(
    recipe: Recipe,
    test: Path,
    candidates: Sequence[tuple[Path, Model]],
    trust: Trust,
) -> dict[str, Any]:
    """Runs one or two models over a CSV: (before, after), or the one alone as `after`."""
    from modelcut import engines
    from modelcut.job import inference, loss
    from modelcut.metrics import accumulators

    custom = own_objects(trust)
    # A SavedModel may be measured beside a file of another format, which has no signatures.
    folders = [path for path, model in candidates if model.origin.format == "saved_model"]
    without = [path for path, _ in candidates if folders and path not in folders]
    networks = []
    for path, model in candidates:
        with registry.plain_file(path, model) as (file, suffix):
            networks.append(
                engines.open_network(
                    file,
                    model.origin.dialect,
                    suffix=suffix,
                    loss=loss.loss_of(model),
                    trust=trust.all,
                    custom_objects=custom,
                    signature=recipe.head.data.signature if path not in without else None,
                    name=str(path),
                    hint=_without_running(model),
                )
            )
    task = None if recipe.head.task == "auto" else recipe.head.task
    results, agreement = inference.evaluate(networks, test, recipe.head.data, task=task)
    parts = [result.to_dict() for result in results]
    answer: dict[str, Any] = {"test": str(test), "before": None, "after": parts[-1]}
    if len(parts) == 2:
        answer["before"] = parts[0]
        answer["change"] = accumulators.compare(parts[0]["metrics"], parts[1]["metrics"])
        answer["agreement"] = agreement
    return answer
