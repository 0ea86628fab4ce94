"""modelcut: makes Keras model files smaller and faster. Each function does what its command does.

    import modelcut

    report = modelcut.prune("model.h5", "small.h5", sparsity=0.8, test="test.csv")
    report.sizes.ratio, report.evaluation.change["accuracy_drop"], report.passed

Errors are `modelcut.errors.ModelcutError` and its subclasses, each with a message, a hint and the
exit code of the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from modelcut.job.request import Job
    from modelcut.metrics.limits import Gates
    from modelcut.recipe.recipe import Recipe
    from modelcut.report.integrity import Integrity
    from modelcut.report.scan import Scan
    from modelcut.report.schema import Comparison, Report
    from modelcut.steps.base import Step

__version__ = "0.8.4"

__all__ = [
    "compare",
    "correct",
    "equalize",
    "evaluate",
    "factorize",
    "finetune",
    "fold",
    "inspect",
    "load",
    "pack",
    "prune",
    "quantize",
    "run",
    "scan",
    "search",
    "simplify",
    "unpack",
    "verify",
]

File: TypeAlias = "str | PathLike[str]"
AnyRecipe: TypeAlias = "Recipe | Step | Sequence[Step] | Mapping[str, Any] | File"


def run(
    recipe: AnyRecipe,
    model: File,
    output: File | None = None,
    *,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Report:
    """Applies a recipe to a model file, and writes and measures the result; `modelcut run`.

    Args:
        recipe: a YAML file, its content as a mapping, or steps such as
            `modelcut.steps.find("prune", "magnitude")(sparsity=0.8)`.
        model: the file or folder to read.
        output: the file to write; None only for a dry run.
        dry_run: apply the steps and count; write and evaluate nothing. With an output, it and its
            options are checked as for a run; without one, options of the written file are refused.
        say: takes a line about progress.
        options: as the command's flags: `test`, `train`, `validate` and `calibrate` (CSV files),
            `force`, `in_place`, `report` (write NAME.report.json, .md and .html beside the output;
            False here unless given), `trust`, `custom_objects`, `max_memory`, `compression`,
            `coder`, `keep_optimizer`, `sha256` (report that of both files), `full_report`,
            `distribute`, `checkpoint`, `resume`, `checkpoint_every`, `keep_on_failure`; and
            `data`, `gates`, `export`, `task`, `from_logits`, `seed`, which replace those of the
            recipe.

    Returns:
        The report; `passed` tells whether all gates passed. If one failed, the output is at
        `output.path` of the report, NAME.failed.SUFFIX unless `keep_on_failure` is set.

    Raises:
        ModelcutError: with a message and a hint; nothing is written then.
        WorkerDone: this process was a worker that is not the chief of a distributed training.
        TypeError: an option is not known.
    """
    from pathlib import Path

    from modelcut.errors import UsageError, WorkerDone
    from modelcut.job import limits, pipeline
    from modelcut.job.request import Job
    from modelcut.report.schema import Worker

    made, options = _recipe(recipe, options)
    options = _paths(options)
    most = options.pop("max_memory", None)
    if dry_run:
        wanted = ("train", "validate", "calibrate", "trust", "test", "sha256")
        known = {name: options[name] for name in wanted if name in options}
        job = _dry(Path(model), made, output, options)
        from modelcut.job import inspect as job_inspect

        with (
            limits.at_most(most),
            job_inspect.look(Path(model), made, say, job=job, **known) as (_, report),
        ):
            return report
    if output is None:
        raise UsageError("no output named", "give output, or dry_run=True")
    with limits.at_most(most):
        job = Job(Path(model), made, Path(output), **{"report": False, **options})
        done = pipeline.run(job, say)
    if isinstance(done, Worker):
        line = f"worker {done.worker}: done; the chief, worker 0, has written {output}"
        raise WorkerDone(line)
    return done


def prune(
    model: File, output: File | None = None, *, method: str = "magnitude", **fields: Any
) -> Report:
    """Prunes a model; `modelcut prune`.

    Args:
        model: the file to read.
        output: the file to write.
        method: such as "magnitude", "l1", "taylor"; `modelcut docs steps` describes all.
        fields: of the method (`sparsity`, `include` …), and the options of `run`.
    """
    return _one_step("prune", method, model, output, fields)


def quantize(
    model: File, output: File | None = None, *, method: str = "linear", **fields: Any
) -> Report:
    """Quantizes the weights of a model; `modelcut quantize`. See `prune`."""
    return _one_step("quantize", method, model, output, fields)


def factorize(
    model: File, output: File | None = None, *, method: str = "svd", **fields: Any
) -> Report:
    """Replaces layers by products of smaller ones; `modelcut factorize`. See `prune`."""
    return _one_step("factorize", method, model, output, fields)


def equalize(
    model: File, output: File | None = None, *, method: str = "cross_layer", **fields: Any
) -> Report:
    """Equalizes ranges of channels between layers; `modelcut equalize`. See `prune`."""
    return _one_step("equalize", method, model, output, fields)


def correct(
    model: File, output: File | None = None, *, method: str = "statistics", **fields: Any
) -> Report:
    """Matches the statistics of layers to the original's; `modelcut correct`. See `prune`."""
    return _one_step("correct", method, model, output, fields)


def finetune(
    model: File, output: File | None = None, *, method: str = "straight_through", **fields: Any
) -> Report:
    """Fine-tunes a model; pruned weights stay zero; `modelcut finetune`. See `prune`."""
    return _one_step("finetune", method, model, output, fields)


def fold(
    model: File, output: File | None = None, *, method: str = "batchnorm", **fields: Any
) -> Report:
    """Folds batch normalizations into neighbouring layers; `modelcut fold`. See `prune`."""
    return _one_step("fold", method, model, output, fields)


def simplify(
    model: File, output: File | None = None, *, method: str = "identity", **fields: Any
) -> Report:
    """Removes layers that compute nothing; `modelcut simplify`. See `prune`."""
    return _one_step("simplify", method, model, output, fields)


def evaluate(
    model: File,
    test: File,
    *,
    against: File | None = None,
    activations: int = 0,
    calibrate: File | None = None,
    trust: bool = False,
    custom_objects: str = "",
    max_memory: str | int | None = None,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Report:
    """Measures a model on a CSV, alone or beside a reference; `modelcut eval`.

    Args:
        model: the model to measure.
        test: CSV of test data.
        against: the reference.
        activations: measure the model in simulated integers as well, with activations of so many
            bits, 4 to 8, as an int8 .tflite has them; 0: do not.
        calibrate: CSV of the samples that give the ranges of activations; labels are not needed.
        trust: run the code that the files carry.
        custom_objects: your own layers: a .py file or a dotted module.
        max_memory: most memory that the network may need, in bytes or as "8GB"; a model that needs
            more is refused. The command line also stops a job that takes more.
        say: takes a line about progress.
        options: `data`, `gates`, `task`, `from_logits`, as in a recipe.
    """
    from pathlib import Path

    from modelcut.data.stdin import path_from
    from modelcut.job import assess, limits
    from modelcut.job.request import Trust
    from modelcut.recipe.recipe import Recipe

    made, rest = _recipe(Recipe((), name="modelcut eval"), options)
    if rest:
        raise TypeError(f"unknown options: {', '.join(rest)}")
    reference = None if against is None else Path(against)
    with limits.at_most(max_memory):
        return assess.assess(
            Path(model),
            reference,
            path_from(test),
            made,
            Trust(trust, custom_objects),
            say,
            activations=activations,
            calibrate=None if calibrate is None else path_from(calibrate),
        )


def compare(
    *models: File,
    test: File,
    trust: bool = False,
    custom_objects: str = "",
    max_memory: str | int | None = None,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Comparison:
    """Measures any number of models on the same samples, side by side; `modelcut compare`.

    Args:
        models: two or more; the first is the reference.
        test: CSV of test data.
        trust: run the code that the files carry.
        custom_objects: your own layers: a .py file or a dotted module.
        max_memory: as of `evaluate`.
        say: takes a line about progress.
        options: `data`, `task`, `from_logits`, as in a recipe.

    Returns:
        The comparison; `models` has each with its size, scores with intervals, agreement with the
        reference, McNemar's test, and latency measured in turn.
        `modelcut.report.comparison.render(found, "html")` makes a page of it.
    """
    from pathlib import Path

    from modelcut.data.stdin import path_from
    from modelcut.job import compare as job_compare
    from modelcut.job import limits
    from modelcut.job.request import Trust
    from modelcut.recipe.recipe import Recipe

    made, rest = _recipe(Recipe((), name="modelcut compare"), options)
    if rest:
        raise TypeError(f"unknown options: {', '.join(rest)}")
    paths = [Path(model) for model in models]
    with limits.at_most(max_memory):
        own = Trust(trust, custom_objects)
        return job_compare.compare(paths, path_from(test), made, own, say)


def inspect(model: File, *, graph: bool = False, sha256: bool = False) -> Report:
    """What is in a model file: layers, shapes, sparsity, encodings, provenance; runs nothing.

    Args:
        model: the file.
        graph: also which layers share channels, and why layers keep theirs.
        sha256: report the SHA-256 of the file too.
    """
    from dataclasses import replace
    from pathlib import Path

    from modelcut.job import inspect as job_inspect

    with job_inspect.look(Path(model), sha256=sha256) as (found, report):
        groups = job_inspect.channels(found) if graph else None
        return replace(report, graph=groups, provenance=dict(found.origin.provenance))


def scan(model: File) -> Scan:
    """Tells what a file holds that could execute, read, write or exhaust; runs nothing.

    The same scan stands before every start of an engine.

    Args:
        model: the file.

    Returns:
        The findings; `safe` tells whether there are none.

    Raises:
        InputError: the file is broken.
    """
    from pathlib import Path

    from modelcut.job import scan as job_scan

    return job_scan.scan(Path(model))


def verify(model: File) -> Integrity:
    """Checks the values in a file against the checksums that were kept of them.

    The formats `.keras`, `.mcut` and SavedModel have checksums of their own; of what modelcut wrote
    to `.h5` and `.keras`, it kept one for each tensor.

    Args:
        model: the file.

    Returns:
        What was found; `sound` tells whether there is no damage.

    Raises:
        InputError: the file is so broken that its tensors cannot be listed.
    """
    from pathlib import Path

    from modelcut.job import integrity

    return integrity.verify(Path(model))


def pack(
    model: File,
    output: File,
    *,
    force: bool = False,
    coder: str | None = None,
    keep_optimizer: bool = False,
    report: bool = False,
    sha256: bool = False,
    full_report: bool = False,
    gates: Mapping[str, Any] | Gates | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Writes a model as a small `.mcut` file, without loss; `modelcut pack`.

    Args:
        model: the model.
        output: the `.mcut` file to write.
        force: replace a file that modelcut did not write.
        coder: huffman, range or best.
        keep_optimizer: pack the optimizer's state too.
        report: write NAME.report.json, .md and .html beside the output.
        sha256: report the SHA-256 of both files too.
        full_report: measure what the report otherwise estimates from pieces of large tensors.
        gates: limits on the result, as in a recipe.
        say: takes a line about progress.
    """
    from modelcut.recipe.recipe import Recipe

    return run(
        Recipe((), name="modelcut pack"),
        model,
        output,
        lossless=True,
        coder=coder,
        keep_optimizer=keep_optimizer,
        force=force,
        report=report,
        sha256=sha256,
        full_report=full_report,
        gates=gates,
        say=say,
    )


def unpack(
    model: File,
    output: File,
    *,
    force: bool = False,
    compression: str | None = None,
    report: bool = False,
    sha256: bool = False,
    full_report: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Unpacks a .mcut file into .h5, .keras or a SavedModel; `modelcut unpack`.

    Args:
        model: the packed file.
        output: the file or folder to write.
        force: replace a file that modelcut did not write.
        compression: none, fast or best.
        report: write NAME.report.json, .md and .html beside the output.
        sha256: report the SHA-256 of both files too.
        full_report: measure what the report otherwise estimates from pieces of large tensors.
        say: takes a line about progress.
    """
    from modelcut.recipe.recipe import Recipe

    return run(
        Recipe((), name="modelcut unpack"),
        model,
        output,
        lossless=True,
        compression=compression,
        keep_optimizer=None,  # what was packed comes back, the optimizer's state too
        force=force,
        report=report,
        sha256=sha256,
        full_report=full_report,
        say=say,
    )


def load(
    path: File, *, trust: bool = False, custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """Loads a model file of any kind that modelcut reads, packed ones too, into Keras.

    Args:
        path: path of the model file.
        trust: whether code in the file may run.
        custom_objects: your own layers and functions, by name.

    Returns:
        A Keras model, not compiled: of Keras 3, or of `tf_keras` where the file is older; of a
        SavedModel, what `tf.saved_model.load` gives, with its `signatures`.

    Raises:
        InputError: the file is broken, holds weights only, or Keras cannot load it.
        UnsafeError: the file would run code of its own.
    """
    from pathlib import Path

    from modelcut.job.load import load as load_model

    return load_model(Path(path), trust, custom_objects or {})


def search(
    model: File,
    output: File,
    *,
    recipe: File | None = None,
    minimize: Sequence[str] = (),
    maximize: Sequence[str] = (),
    gates: Mapping[str, Any] | Gates | None = None,
    train: File | None = None,
    validate: File | None = None,
    test: File | None = None,
    calibrate: File | None = None,
    trials: int = 40,
    seconds: float | None = None,
    validation_fraction: float = 0.2,
    confidence: float = 0.9,
    workers: int = 1,
    scheduler: str = "",
    keep_best: bool = False,
    restart: bool = False,
    trust: bool = False,
    custom_objects: str = "",
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Report:
    """Searches for the best model within limits, and writes it; `modelcut search`.

    Args:
        model: the file to read.
        output: the file to write; NAME.recipe.yaml, NAME.search.json and the report are written
            beside it.
        recipe: a recipe with open values; None: one is made for the model.
        minimize: numbers to minimize, by the gates' names without max_, such as "bytes".
        maximize: numbers to maximize, by the gates' names without min_, such as "accuracy".
        gates: limits that the result must meet, as in a recipe.
        train: CSV of training data; None: no step trains.
        validate: CSV that candidates are measured on; None: a part of `train`.
        test: CSV that the chosen model is measured on, once.
        calibrate: CSV of calibration data, for rounding by outputs and an int8 .tflite; None:
            `train`.
        trials: number of candidates to try.
        seconds: time after which no further candidate is begun; None: no limit.
        validation_fraction: fraction of `train` that is set aside for validation.
        confidence: probability with which the limit on the accuracy drop shall hold on `test`, or
            without it on all samples like the validation samples, 0.5 to 1.
        workers: number of local processes; more than one needs Dask.
        scheduler: address of a Dask scheduler whose workers try the candidates.
        keep_best: on an interrupt, write the best candidate so far.
        restart: discard the trials of an interrupted search.
        trust: run the code that the file carries.
        custom_objects: your own layers: a .py file or a dotted module.
        force: replace files that modelcut did not write.
        say: takes a line about progress.
        options: `data`, `task`, `from_logits`, `seed`, `export` as in a recipe; `compression`,
            `coder`, `keep_optimizer` as in `run`.

    Returns:
        The report of the chosen model; its `search` says how it was chosen.

    Raises:
        InfeasibleError: no candidate meets the limits.
        ModelcutError: with a message and a hint.
    """
    from pathlib import Path

    from modelcut.data.stdin import path_from
    from modelcut.job.request import Trust
    from modelcut.recipe.recipe import Head, Recipe
    from modelcut.tuner import journal
    from modelcut.tuner import request as requests
    from modelcut.tuner import search as searches

    head = options.pop("head", None) or Head()
    if gates is not None:
        options["gates"] = gates
    made, rest = _recipe(Recipe((), head), options)
    if odd := sorted(set(rest) - {"compression", "coder", "keep_optimizer"}):
        raise TypeError(f"search() has no option {odd[0]!r}")
    paths = {
        name: None if path is None else path_from(path)
        for name, path in (("train", train), ("test", test), ("calibrate", calibrate))
    }
    place = None if recipe is None else Path(recipe)
    goal = requests.goal_of(minimize, maximize, made.head.gates, confidence)
    space, first = requests.space_for(
        place,
        Path(model),
        Path(output),
        goal,
        train=train is not None,
        samples=calibrate is not None or train is not None,
    )
    space = requests.with_head(space, made.head)
    goal = requests.goal_of(minimize, maximize, space.at({}).head.gates, confidence)
    request = requests.Request(
        Path(model),
        space,
        goal,
        Path(output),
        validation=None if validate is None else path_from(validate),
        fraction=validation_fraction,
        trust=Trust(trust, custom_objects),
        trials=trials,
        seconds=seconds,
        seed=made.head.seed,
        workers=workers,
        scheduler=scheduler,
        keep_best=keep_best,
        force=force,
        first=first,
        options={name: value for name, value in rest.items() if value is not None},
        **paths,
    )
    if restart:
        journal.discard(request.folder)
    return searches.search(request, say)


def _one_step(
    family: str, method: str, model: File, output: File | None, fields: dict[str, Any]
) -> Report:
    """A recipe of one step: its own fields make the step, the others are options of `run`."""
    from modelcut import steps
    from modelcut.recipe.recipe import Recipe

    cls = steps.find(family, method)
    known = {*_options(), "dry_run", "say"} - set(cls.model_fields)
    own = {name: fields.pop(name) for name in list(fields) if name not in known}
    step = _valid(cls, own, f"{family}: {method}: ")
    return run(Recipe((step,), name=f"modelcut.{family}"), model, output, **fields)


def _recipe(given: AnyRecipe, options: dict[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe, with what the options say in place of its own; and the other options."""
    from dataclasses import replace
    from pathlib import Path

    from modelcut.recipe import recipe as recipes
    from modelcut.recipe.yaml_text import Document
    from modelcut.steps.base import Step

    if isinstance(given, recipes.Recipe):
        made = given
    elif isinstance(given, Step):
        made = recipes.Recipe((given,))
    elif isinstance(given, Mapping):
        made = recipes.parse(Document("recipe", dict(given)))
    elif isinstance(given, (str, PathLike)):
        made = recipes.load(Path(given))
    else:
        made = recipes.Recipe(tuple(given))
    made.check()
    names = set(recipes.Head.model_fields) - {"version"}
    mine = {name: options[name] for name in names & set(options) if options[name] is not None}
    rest = {name: value for name, value in options.items() if name not in names}
    if mine:
        head = {**made.head.model_dump(exclude_unset=True), **mine}
        made = replace(made, head=_valid(recipes.Head, head))
    return made, rest


def _valid(cls: type[Any], fields: Mapping[str, Any], where: str = "") -> Any:
    """A pydantic model of these fields.

    Raises:
        RecipeError: everything that is wrong with them, in one line.
    """
    from pydantic import BaseModel, ValidationError

    from modelcut.errors import RecipeError
    from modelcut.errors.explain import explain

    plain = {
        name: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        for name, value in fields.items()
    }
    try:
        return cls.model_validate(plain)
    except ValidationError as error:
        found = (explain(each, cls.model_fields, cls) for each in error.errors(include_url=False))
        lines = (f"{what} ({hint})" if hint else what for what, hint in found)
        raise RecipeError(where + "; ".join(lines)) from None


def _options() -> set[str]:
    """Names of the options of `run`."""
    from dataclasses import fields

    from modelcut.job.request import Job
    from modelcut.recipe.recipe import Head

    own = {each.name for each in fields(Job)} - {"model", "recipe", "output", "search"}
    return own | set(Head.model_fields) - {"version"} | {"custom_objects", "max_memory"}


def _dry(model: Path, recipe: Recipe, output: File | None, options: dict[str, Any]) -> Job | None:
    """The job that a dry run stands for; None where no output is named.

    Raises:
        UsageError: an option that a dry run has no use for.
    """
    from dataclasses import fields
    from pathlib import Path

    from modelcut.errors import UsageError
    from modelcut.job.request import Job

    read = ("train", "validate", "calibrate", "trust", "test", "sha256")
    defaults = {"report": False, **{each.name: each.default for each in fields(Job)}}
    stated = [name for name in options if name not in read]
    stated = [name for name in stated if options[name] not in (None, False, defaults[name])]
    for name in ("checkpoint", "resume", "checkpoint_every", "distribute"):
        if name in stated and options[name] != "auto":
            line = f"{name}: a dry run is a single process and saves no state"
            raise UsageError(line, "leave it out")
    if output is not None:
        return Job(model, recipe, Path(output), **{"report": False, **options})
    if stated := [name for name in stated if name != "distribute"]:
        raise UsageError(f"{stated[0]}: this option needs an output file", "give output")
    return None


def _paths(options: dict[str, Any]) -> dict[str, Any]:
    """Options of `run` as a `Job` takes them.

    Raises:
        TypeError: one is not known.
    """
    from modelcut.data.stdin import path_from
    from modelcut.job.request import Trust

    if odd := sorted(set(options) - _options()):
        raise TypeError(f"run() has no option {odd[0]!r}")
    found = dict(options)
    for name in ("test", "train", "validate", "calibrate", "checkpoint"):
        if found.get(name) is not None:
            found[name] = path_from(found[name])
    trust, custom = found.pop("trust", False), found.pop("custom_objects", "")
    if not isinstance(trust, Trust):
        trust = Trust(bool(trust), custom or "")
    return {**found, "trust": trust}
