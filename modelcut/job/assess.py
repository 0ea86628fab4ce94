"""Evaluating models as they are: `eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelcut import safety
from modelcut.formats import registry
from modelcut.job.check import check_runnable
from modelcut.job.describe import data_warnings
from modelcut.job.evaluate import evaluate
from modelcut.job.inspect import look
from modelcut.job.request import Say, Trust
from modelcut.job.verify import refuse_nan
from modelcut.recipe.recipe import Recipe


def assess(
    path: Path, against: Path | None, test: Path, recipe: Recipe, trust: Trust, say: Say
) -> dict[str, Any]:
    """Evaluates a model, beside another one if given; nothing is written.

    Returns:
        A report whose input is the model itself, with the gates judged.
    """
    for other in (against, test):
        if other is not None:
            safety.check_path(other)
    model, report = look(path)
    refuse_nan(report)
    candidates = [(path, model)]
    if against is not None:
        original = registry.open_model(against)
        candidates.insert(0, (against, original))
    for _, candidate in candidates:
        check_runnable(candidate, trust)
    say("evaluating")
    report["evaluation"] = evaluate(recipe, test, candidates, trust)
    report["warnings"] += data_warnings(report)
    report["gates"] = recipe.head.gates.judge(report)
    return report
