"""Any number of models side by side, on the same samples, in one engine process: `compare`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from modelcut import safety
from modelcut.data.sources import check_source
from modelcut.errors import UsageError
from modelcut.formats import registry
from modelcut.job.check import check_runnable
from modelcut.job.evaluate import check_test, network_of, open_evaluator, warm
from modelcut.job.inspect import look
from modelcut.job.request import Say, Trust
from modelcut.job.verify import refuse_nan
from modelcut.metrics.intervals import CONFIDENCE
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe
from modelcut.report.schema import Candidate, Comparison


def compare(
    paths: Sequence[Path], test: Path, recipe: Recipe, trust: Trust, say: Say = lambda _: None
) -> Comparison:
    """Evaluates models on the same samples; nothing is written.

    Args:
        paths: the models, the first being the reference.
        test: CSV of test data.
        recipe: recipe whose data options apply.
        trust: which code of the files may run.
        say: takes a line about progress.

    Raises:
        ModelcutError: a model cannot be run, or the CSV does not fit them.
    """
    if len(paths) < 2:
        raise UsageError("compare takes two models or more", "`modelcut eval` measures one")
    for path in paths:
        safety.check_path(path)
    check_source(test)
    names = shown(paths)
    say("opening the models")

    def prepare(model: Model) -> None:
        check_runnable(model, trust)
        if model.origin.path == paths[0]:
            check_test(recipe, test, model)  # its names are those of `--inputs` and `--label`
            warm(model, trust)

    with contextlib.ExitStack() as opened:
        looked = [opened.enter_context(look(path, opened=prepare)) for path in paths]
        for _, report in looked:
            refuse_nan(report)
        models = [model for model, _ in looked]
        signed = [registry.of_model(model).signatures for model in models]
        # A SavedModel's signature is named for it alone: the others have none.
        evaluator = open_evaluator(
            recipe,
            test,
            paths[0],
            models[0],
            trust,
            beside=any(signed[1:]),
            compared=True,
            say=say,
        )
        networks = [
            network_of(recipe, path, model, trust, beside=any(signed), say=say)
            for path, model in zip(paths[1:], models[1:], strict=True)
        ]
        say("evaluating")
        results, pairs = evaluator.run(*networks, names=names)
    candidates = []
    for index, (name, result) in enumerate(zip(names, results, strict=True)):
        pair = pairs[index - 1] if index else None
        report = looked[index][1]
        candidates.append(
            Candidate(
                name,
                report.input,
                report.sizes.before,
                result.to_dict(),
                pair.change if pair else None,
                pair.agreement if pair else None,
                pair.latency if pair else None,
            )
        )
    first = looked[0][1]
    told = [
        *(
            f"{name}: {line}"
            for name, (_, r) in zip(names, looked, strict=True)
            for line in r.warnings
        ),
        *(line for result in results for line in result.warnings),
    ]
    engines = list(dict.fromkeys(result.engine for result in results))
    if len(engines) > 1:
        told.append(
            f"latency: {' and '.join(engines)} are different engines: their ratio is not that of "
            "the networks alone"
        )
    return Comparison(
        modelcut=first.modelcut,
        versions=first.versions,
        host=first.host,
        test=str(test),
        rows=results[0].rows,
        confidence=CONFIDENCE,
        models=tuple(candidates),
        warnings=tuple(dict.fromkeys(told)),
    )


def shown(paths: Sequence[Path]) -> list[str]:
    """Names that tell models apart: of each path as many of its last parts as that takes."""
    found: list[str] = []
    for index, path in enumerate(paths):
        parts = path.parts
        others = [other.parts for at, other in enumerate(paths) if at != index]
        length = next(
            (
                n
                for n in range(1, len(parts) + 1)
                if all(other[-n:] != parts[-n:] for other in others)
            ),
            len(parts),
        )
        name = str(Path(*parts[-length:])) if parts else str(path)
        found.append(f"{name} ({found.count(name) + 1})" if name in found else name)
    return found
