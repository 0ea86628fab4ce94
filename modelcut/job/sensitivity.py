"""What each layer alone can bear: the profile of a model under the settings of some methods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelcut import __version__, safety
from modelcut.budget.bench import Bench
from modelcut.budget.profile import Trier, profile
from modelcut.budget.ranking import rank
from modelcut.data.sources import check_source
from modelcut.errors import InputError
from modelcut.formats import registry
from modelcut.job import provenance, start
from modelcut.job.check import check_needs
from modelcut.job.digest import Digest, size
from modelcut.job.request import Trust
from modelcut.recipe.recipe import Recipe
from modelcut.steps.base import Context
from modelcut.steps.strength import Budgeted

SCHEMA = "modelcut-sensitivity/1"


def assess(
    path: Path,
    data: Path,
    recipe: Recipe,
    trust: Trust,
    *,
    train: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Tries each layer alone under each setting of each step; nothing is written.

    Args:
        path: the model.
        data: labelled CSV that the trials are measured on.
        recipe: its steps are tried one by one on the model as it is; they say which settings.
        trust: which code of the file may run.
        train: CSV for criteria that need training data.
        say: takes a line about progress.

    Returns:
        Plain JSON data: `profiles`, one a step, with the `base` and the `layers`, and of each layer
        its `trials` in the order of `settings`; and the `ranking` of the layers, as
        `budget.ranking.Ranking`.

    Raises:
        ModelcutError: data is missing, the model cannot be run, or the samples do not fit it.
    """
    check_needs(recipe, train, data, None, dry=True)
    safety.check_path(path)
    for each in (data, train):
        if each is not None:
            check_source(each)
    with Digest(path) as digest, registry.open_model(path) as model:
        runtime = start.open_runtime(model, recipe, train, data, trust, say=say)
        bench = Bench(model, runtime)
        profiles: list[dict[str, Any]] = []
        for index, step in enumerate(recipe.steps):
            assert isinstance(step, Budgeted)
            context = Context(index=index, seed=recipe.head.seed, say=say, runtime=runtime)
            trier = Trier(step, model, bench, context)
            found = profile(trier)
            profiles.append(
                {
                    "title": step.title,
                    "field": step.strength.name,
                    "settings": list(step.ladder),
                    "base": bench.base.to_dict(),
                    "layers": [
                        {
                            "name": layer.name,
                            "class": layer.class_name,
                            "trials": [trial.to_dict() for trial in found[layer.name]],
                        }
                        for layer in trier.layers
                        if layer.name in found
                    ],
                    "left_alone": trier.skipped | trier.unmoved,
                }
            )
            trials = {name: [each.to_dict() for each in own] for name, own in found.items()}
            ranking = rank(bench.base.to_dict(), step.ladder, trials)
            profiles[-1]["ranking"] = ranking.to_dict() if ranking else None
        if digest.changed():
            raise InputError(f"{path}: changed while modelcut was reading it", "run again")
        return {
            "schema": SCHEMA,
            "modelcut": __version__,
            "versions": provenance.versions(),
            "input": {
                "path": str(path),
                "bytes": size(path),
                "sha256": None,
                "blake3": digest.blake3,
            },
            "data": {"path": str(data), "rows": bench.rows},
            "seed": recipe.head.seed,
            "profiles": profiles,
        }
