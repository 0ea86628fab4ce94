"""The recipes that were tried, as a table."""

from __future__ import annotations

from pathlib import PurePath

from modelcut.report.cells import Table, number, size
from modelcut.report.schema import Report, TriedRecipe
from modelcut.safety import printable

_METRICS = {"accuracy": "accuracy", "f1_macro": "F1, macro", "rmse": "RMSE"}


def table(report: Report) -> Table:
    """A row for each recipe, the one that was written marked."""
    tried = report.tried
    shown = {
        key: name for key, name in _METRICS.items() if any(key in one.metrics for one in tried)
    }
    best = min(
        (one for one in tried if not one.error),
        key=lambda one: (len(one.failed), one.bytes or 0),
        default=None,
    )
    rows = [
        (
            printable(PurePath(one.recipe).stem, 40),
            "–" if one.bytes is None else size(one.bytes),
            *(number_or_dash(one, key) for key in shown),
            _verdict(one) + (", written" if one is best else ""),
        )
        for one in tried
    ]
    columns = ("recipe", "file", *shown.values(), "gates")
    return Table("Recipes", columns, rows, left=("gates",))


def number_or_dash(recipe: TriedRecipe, key: str) -> str:
    """A metric with four decimals."""
    value = recipe.metrics.get(key)
    if value is None:
        return "–"
    return f"{value:.4f}" if key != "rmse" else number(value)


def _verdict(recipe: TriedRecipe) -> str:
    if recipe.error:
        return f"not run: {printable(recipe.error, 200)}"
    return f"failed: {', '.join(recipe.failed)}" if recipe.failed else "passed"
