"""Measuring a model without writing anything: `inspect`, and dry runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from modelcut import safety
from modelcut.arrays import buffers
from modelcut.data.sources import check_source
from modelcut.errors import InputError
from modelcut.formats import registry
from modelcut.job import provenance, start
from modelcut.job.check import Checked, check_needs, check_options
from modelcut.job.describe import describe, passage_of, warnings_of
from modelcut.job.digest import Digest
from modelcut.job.fold import Folded, fold
from modelcut.job.outputs import Outputs
from modelcut.job.request import Job, Say, Trust
from modelcut.job.verify import measure_rest
from modelcut.job.watched import reading
from modelcut.job.write import places_of
from modelcut.model import edit
from modelcut.model.measure import Meter
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe
from modelcut.report.build import Identity
from modelcut.report.schema import ChannelGraph, ChannelGroup, Report


def channels(model: Model) -> ChannelGraph:
    """The dependency groups of a model's channels, and why layers keep theirs.

    Raises:
        InputError: the file has no architecture.
    """
    if model.architecture is None:
        raise InputError(
            f"{model.origin.path}: the file has no architecture, so that nothing tells which "
            "layers share channels",
            "give the whole model as Keras saved it, .h5 or .keras",
        )
    found = edit.dependencies(model)
    names = {(layer.path, t.role): t.name for layer in model.layers for t in layer.tensors}
    counted: dict[int, list[str]] = {}
    for size in found.sizes:
        for one in set(size.ids.tolist()):
            counted.setdefault(one, []).append("/".join((*size.path, size.key)))
    groups = []
    for group in found.groups:
        slots = [found.slots[number] for number, _ in group.slots]
        weights = dict.fromkeys(names[slot.path, slot.role] for slot in slots)
        made_by = tuple("/".join(path) for path in found.made_by(group))
        count = int(group.ids.size)
        sizes = tuple(dict.fromkeys(counted.get(int(group.ids[0]), ())))
        groups.append(
            ChannelGroup(channels=count, made_by=made_by, weights=tuple(weights), sizes=sizes)
        )
    kept = {"/".join(path): reason for path, reason in found.kept.items()}
    return ChannelGraph(groups=tuple(groups), kept=kept)


@contextlib.contextmanager
def look(
    path: Path,
    recipe: Recipe | None = None,
    say: Say = lambda _: None,
    train: Path | None = None,
    validate: Path | None = None,
    trust: Trust | None = None,
    test: Path | None = None,
    calibrate: Path | None = None,
    job: Job | None = None,
    sha256: bool = False,
    opened: Callable[[Model], None] = lambda _: None,
) -> Iterator[tuple[Model, Report]]:
    """Reads a model and measures it without changing or writing anything.

    Args:
        path: the model.
        recipe: planned on it (a dry run): the report then tells what it would do.
        say: takes a line about progress.
        train: CSV for the steps that train.
        validate: CSV for the steps that search.
        trust: what of the file's code may run for them.
        test: CSV that the recipe would be judged on; a warning says that it is not.
        calibrate: CSV for the steps that look at outputs.
        job: the job that the dry run stands for: what it would refuse is refused here too.
        sha256: report the SHA-256 of the file too.
        opened: called with the model before it is measured.

    Yields:
        The model, open until the end of the context, and a report without output and evaluation.
    """
    safety.check_path(path)
    for each in (train, validate, test, calibrate):
        if each is not None:
            check_source(each)
    if recipe:
        check_needs(recipe, train, validate, test, calibrate=calibrate, dry=True)
    with contextlib.ExitStack() as stack:
        with Digest(path, sha256=sha256) as digest, buffers.kept():
            with reading(path):
                model = stack.enter_context(registry.open_model(path))
            opened(model)
            runtime = None
            if job:
                _check_output(job, model)
            if recipe:
                runtime = start.runtime_for(
                    model, recipe, train, validate, trust or Trust(), calibrate=calibrate, say=say
                )
            folded = fold(model, recipe, say, runtime) if recipe else Folded((model,))
            meters: dict[Identity, Meter] = {}
            measure_rest(folded.models, meters)
            passage = passage_of(folded, recipe, meters)
            report = describe(passage, path, None, digest, recipe)
            warnings = [*warnings_of(passage), *(runtime.notes if runtime else ())]
            if test is not None or (recipe and list(recipe.head.gates.items())):
                warnings.append("a dry run judges neither accuracy nor gates")
        yield model, replace(report, warnings=tuple(warnings))


def _check_output(job: Job, model: Model) -> None:
    """Refuses an output and its options as the job itself would; writes nothing."""
    checked = Checked(job, model, registry.for_output(job.output, model))
    check_options(job, model, checked.writer)
    places = places_of(checked)
    with Outputs(
        job.sources, force=job.force, in_place=job.in_place, ours=provenance.is_ours
    ) as outputs:
        outputs.check(places.model, folder=checked.writer.folder)
        for page in (*places.reports.values(), *([places.header] if places.header else [])):
            outputs.check(page)
