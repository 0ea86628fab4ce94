"""The main job: check, fold the steps, write, re-read, evaluate, judge, and only then publish.

What is reported is what was written: sizes from the meters that watched the writer, metrics from
the written file. Nothing appears at the output's place before all of it is done.
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from modelcut import __version__, formats, graph, safety
from modelcut.budget import Budgeted
from modelcut.coding import Coder
from modelcut.digest import Digest, sha256, size
from modelcut.errors import InputError, ModelcutError, UsageError
from modelcut.lab import Lab
from modelcut.measure import Meter
from modelcut.model import Model
from modelcut.output import Outputs
from modelcut.recipe import Recipe
from modelcut.report import build, render
from modelcut.report.build import Passage, identity
from modelcut.step import Context, Outcome, Step


@dataclass(frozen=True)
class Trust:
    """What of a file's code may run.

    Attributes:
        all: run whatever is in the file.
        custom_objects: a module of the user's own layers, as a path or dotted name; "" for none.
    """

    all: bool = False
    custom_objects: str = ""


@dataclass(frozen=True)
class Job:
    """All that `modelcut run` was told.

    Attributes:
        model: the input file.
        recipe: what to do, and what must hold.
        output: the file to write.
        test: CSV to evaluate both models on; None: no evaluation.
        train: CSV for the steps that train; None: none given.
        validate: CSV for the steps that search; None: a share of `train` is set aside.
        calibrate: CSV with the rows that a .tflite is calibrated on; None: none given.
        trust: what of the file's code may run.
        force: replace an output that modelcut did not write.
        in_place: the output may be the input.
        compression: none, fast or best; None: the default.
        coder: of a packed file; None: the default.
        keep_optimizer: keep the optimizer's state.
        report: write NAME.report.json and NAME.report.md beside the output.
        lossless: only the container changes: what the input says of its making is kept as it is.
    """

    model: Path
    recipe: Recipe
    output: Path
    test: Path | None = None
    train: Path | None = None
    validate: Path | None = None
    calibrate: Path | None = None
    trust: Trust = field(default_factory=Trust)
    force: bool = False
    in_place: bool = False
    compression: formats.Compression | None = None
    coder: Coder | None = None
    keep_optimizer: bool = False
    report: bool = True
    lossless: bool = False


Say = Callable[[str], None]


def run(job: Job, say: Say = lambda _: None) -> dict[str, Any]:
    """Does the whole job and returns the report; `report["gates"]` tells what held.

    Raises:
        ModelcutError: with the exit code; nothing is left behind.
    """
    _check_needs(job.recipe, job.train, job.validate, job.test)
    data = (job.test, job.train, job.validate, job.calibrate)
    inputs = [job.model, *(path for path in data if path is not None)]
    for path in inputs:
        safety.check_path(path)
    with Digest(job.model) as digest:
        model = formats.open_model(job.model)
        writer = formats.for_output(job.output, model)
        _check_options(job, writer)
        fixed = getattr(writer, "FIXED_GRAPH", "")
        for index, step in enumerate(job.recipe.steps if fixed else ()):
            if "graph" in step.needs and model.architecture is not None:
                raise UsageError(f"{job.output}: step {index + 1}, {step.title}: {fixed}")
        outputs = Outputs(inputs, force=job.force, in_place=job.in_place, ours=_is_ours)
        warnings = [*model.origin.warnings, *safety.passengers(_architecture_text(model))]
        if job.test is not None or formats.needs_engine(writer):
            _check_runnable(model, job.trust)
        _check_export(job, needed=formats.needs_engine(writer))
        lab = _laboratory(model, job.recipe, job.train, job.validate, job.trust)
        with outputs:
            target = outputs.add(job.output, folder=formats.is_folder(writer))
            pages = _report_paths(job.output) if job.report else {}
            drafts = {kind: outputs.add(path) for kind, path in pages.items()}
            say("planning")
            models, outcomes, seconds = fold(model, job.recipe, say, lab)
            reason = writer.refusal(models[-1])
            if reason:
                raise UsageError(f"{job.output}: {reason}")
            meters: dict[build.Identity, Meter] = {}
            say("writing")
            written = writer.write(
                models[-1],
                target,
                formats.WriteOptions(
                    compression=job.compression or "fast",
                    coder=job.coder or "best",
                    keep_optimizer=job.keep_optimizer,
                    provenance=_provenance(job, model, digest),
                    convert=formats.Conversion(
                        partial(_convert, job, _provenance(job, model, digest)),
                        quantizes=job.recipe.head.export.quantizes,
                    ),
                    meter=lambda tensor: meters.setdefault(identity(tensor), Meter(deflate=True)),
                ),
            )
            _measure_rest(models, meters)
            again = formats.open_model(target)
            if not formats.needs_engine(writer):
                _check_same(models[-1], again, job.output)
            passage = Passage(
                models,
                job.recipe.steps,
                outcomes,
                seconds,
                meters,
                written.stored,
                written.encodings,
                written.coders,
                (graph.macs(model), graph.macs(models[-1])),
            )
            report = describe(passage, job.model, target, digest, job.recipe)
            _refuse_nan(report)
            report["output"] = {
                "path": str(job.output),
                "format": writer.NAME,
                "bytes": size(target),
                "sha256": sha256(target),
                "compression": None
                if getattr(writer, "OWN_CODING", "")
                else job.compression or "fast",
                "dropped": list(written.dropped),
                **({"litert": dict(written.facts)} if written.facts else {}),
            }
            if job.test is not None:
                say("evaluating")
                report["evaluation"] = evaluate(
                    job.recipe, job.test, [(job.model, model), (target, again)], job.trust
                )
            report["warnings"] = [
                *warnings,
                *(line for outcome in outcomes for line in outcome.warnings),
                *build.value_warnings(passage),
                *_data_warnings(report),
            ]
            report["gates"] = job.recipe.head.gates.judge(report)
            for kind, draft in drafts.items():
                draft.write_text(render(report, kind), encoding="utf-8")
            if digest.changed():
                raise InputError(f"{job.model}: changed while modelcut was reading it", "run again")
            outputs.publish()
    return report


def fold(
    model: Model, recipe: Recipe, say: Say, lab: Lab | None = None
) -> tuple[list[Model], list[Outcome], list[float]]:
    """Applies the steps in order; nothing but surveys and trainings is computed yet.

    Returns:
        The model as read and after each step, the outcomes, and the seconds of each step.
    """
    models, outcomes, seconds = [model], [], []
    for index, step in enumerate(recipe.steps):
        say(step.title)
        start = time.perf_counter()
        context = Context(index=index, seed=recipe.head.seed, say=say, lab=lab)
        searched = isinstance(step, Budgeted) and step.budget is not None
        outcome = (
            _searched(step, models[-1], context) if searched else (step.apply(models[-1], context))
        )
        seconds.append(time.perf_counter() - start)
        outcomes.append(outcome)
        models.append(outcome.model)
    return models, outcomes, seconds


def _searched(step: Step, model: Model, context: Context) -> Outcome:
    from modelcut.search import budget

    assert isinstance(step, Budgeted)
    return budget.apply(step, model, context)


def describe(
    passage: Passage, source: Path, target: Path | None, digest: Digest, recipe: Recipe | None
) -> dict[str, Any]:
    """The report as far as it does not need the network to run."""
    model = passage.models[0]
    stages = build.ledger(passage)
    coded = build.coded(passage, stages[-1])
    file_bytes = (size(source), size(target) if target else None)
    report: dict[str, Any] = {
        "schema": build.SCHEMA,
        "modelcut": __version__,
        "versions": versions(),
        "host": {"machine": platform.machine(), "system": platform.system()},
        "input": {
            "path": str(source),
            "format": model.origin.container or model.origin.format,
            "dialect": model.origin.dialect,
            "writer": model.origin.writer,
            "bytes": file_bytes[0],
            "sha256": digest.hex(),
        },
        "output": None,
        "recipe": recipe.to_dict() if recipe else None,
        "seed": recipe.head.seed if recipe else None,
        "sizes": build.sizes(passage, stages, file_bytes),
        "ledger": [*stages, *coded],
        "steps": build.step_rows(passage),
        "layers": build.layers(passage),
        "evaluation": None,
        "gates": [],
        "warnings": [],
    }
    return report


def evaluate(
    recipe: Recipe,
    test: Path,
    candidates: Sequence[tuple[Path, Model]],
    trust: Trust,
) -> dict[str, Any]:
    """Runs one or two models over a CSV: (before, after), or the one alone as `after`."""
    from modelcut import engines, evaluation, laboratory, metrics

    custom = engines.load_custom_objects(trust.custom_objects) if trust.custom_objects else {}
    # A SavedModel may be measured beside a file of another format, which has no signatures.
    folders = [path for path, model in candidates if model.origin.format == "saved_model"]
    without = [path for path, _ in candidates if folders and path not in folders]
    networks = []
    for path, model in candidates:
        with formats.plain_file(path) as (file, suffix):
            networks.append(
                engines.open_network(
                    file,
                    model.origin.dialect,
                    suffix=suffix,
                    loss=laboratory.loss_of(model),
                    trust=trust.all,
                    custom_objects=custom,
                    signature=recipe.head.data.signature if path not in without else None,
                    name=str(path),
                )
            )
    task = None if recipe.head.task == "auto" else recipe.head.task
    results, agreement = evaluation.evaluate(networks, test, recipe.head.data, task=task)
    parts = [result.to_dict() for result in results]
    answer: dict[str, Any] = {"test": str(test), "before": None, "after": parts[-1]}
    if len(parts) == 2:
        answer["before"] = parts[0]
        answer["change"] = metrics.compare(parts[0]["metrics"], parts[1]["metrics"])
        answer["agreement"] = agreement
    return answer


def versions() -> dict[str, str]:
    """Of what took part, as far as it is installed; nothing is imported for it."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "h5py", "isal", "tensorflow", "keras", "tf_keras"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def look(
    path: Path,
    recipe: Recipe | None = None,
    say: Say = lambda _: None,
    train: Path | None = None,
    validate: Path | None = None,
    trust: Trust | None = None,
) -> tuple[Model, dict[str, Any]]:
    """Reads a model and measures it without changing or writing anything.

    Args:
        path: the model.
        recipe: planned on it (a dry run): the report then tells what it would do.
        say: takes a line about progress.
        train: CSV for the steps that train.
        validate: CSV for the steps that search.
        trust: what of the file's code may run for them.

    Returns:
        The model, and a report without output and evaluation.
    """
    for each in (path, train, validate):
        if each is not None:
            safety.check_path(each)
    if recipe:
        _check_needs(recipe, train, validate, None, dry=True)
    with Digest(path) as digest:
        model = formats.open_model(path)
        lab = _laboratory(model, recipe, train, validate, trust or Trust()) if recipe else None
        models, outcomes, seconds = fold(model, recipe, say, lab) if recipe else ([model], [], [])
        meters: dict[build.Identity, Meter] = {}
        _measure_rest(models, meters)
        passage = Passage(
            models,
            recipe.steps if recipe else (),
            outcomes,
            seconds,
            meters,
            macs=(graph.macs(model), graph.macs(models[-1])),
        )
        report = describe(passage, path, None, digest, recipe)
        report["warnings"] = [
            *model.origin.warnings,
            *safety.passengers(_architecture_text(model)),
            *(line for outcome in outcomes for line in outcome.warnings),
            *build.value_warnings(passage),
        ]
    return model, report


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
    _refuse_nan(report)
    candidates = [(path, model)]
    if against is not None:
        original = formats.open_model(against)
        candidates.insert(0, (against, original))
    for _, candidate in candidates:
        _check_runnable(candidate, trust)
    say("evaluating")
    report["evaluation"] = evaluate(recipe, test, candidates, trust)
    report["warnings"] += _data_warnings(report)
    report["gates"] = recipe.head.gates.judge(report)
    return report


def load(path: Path, trust: bool, custom_objects: Mapping[str, Any]) -> Any:
    """A model of any kind that modelcut reads as a Keras model; see `modelcut.load`."""
    from modelcut import engines

    safety.check_path(path)
    model = formats.open_model(path)
    _check_runnable(model, Trust(trust, "given" if custom_objects else ""))
    with formats.plain_file(path) as (file, suffix):
        network: Any = engines.open_network(
            file,
            model.origin.dialect,
            suffix=suffix,
            trust=trust,
            custom_objects=custom_objects,
        )
    return network.model


def _check_needs(
    recipe: Recipe,
    train: Path | None,
    validate: Path | None,
    test: Path | None,
    *,
    dry: bool = False,
) -> None:
    """Holds what the recipe needs against what was given."""
    for index, step in enumerate(recipe.steps):
        if "train" in step.wants and train is None:
            raise UsageError(
                f"step {index + 1}, {step.title}: needs training data", "add --train FILE.csv"
            )
        if "validation" not in step.wants:
            continue
        if train is None and validate is None:
            raise UsageError(
                f"step {index + 1}, {step.title}: a budget needs validation data",
                "add --validate FILE.csv, or --train FILE.csv, of which a tenth is set aside",
            )
        if validate is not None and test is not None and validate.resolve() == test.resolve():
            raise UsageError(
                f"step {index + 1}, {step.title}: --validate and --test are the same file",
                "what is chosen on the test data cannot be judged by it",
            )
    if test is None and not dry and recipe.head.gates.needing_data():
        names = ", ".join(recipe.head.gates.needing_data())
        raise UsageError(f"the gate {names} needs test data", "add --test FILE.csv")


def _check_runnable(model: Model, trust: Trust) -> None:
    """Refuses what an engine must not be started on."""
    if formats.check_runnable(model, trust=trust.all):
        return
    from modelcut import laboratory

    laboratory.check_runnable(
        model,
        trust=trust.all,
        custom=bool(trust.custom_objects),
        otherwise="evaluate the whole model, or leave out --test",
    )


def _laboratory(
    model: Model, recipe: Recipe, train: Path | None, validate: Path | None, trust: Trust
) -> Lab | None:
    """Where the recipe has steps that train or search: what they do it with."""
    wanted = {"train", "validation"}
    if (train or validate) is None or not any(wanted & step.wants for step in recipe.steps):
        return None
    return open_laboratory(model, recipe, train, validate, trust)


def open_laboratory(
    model: Model, recipe: Recipe, train: Path | None, validate: Path | None, trust: Trust
) -> Lab:
    """A laboratory for a model; nothing is started yet.

    Raises:
        ModelcutError: the model cannot or must not be run.
    """
    from modelcut import engines, laboratory

    laboratory.check_runnable(model, trust=trust.all, custom=bool(trust.custom_objects))
    custom = engines.load_custom_objects(trust.custom_objects) if trust.custom_objects else {}
    head = recipe.head
    return laboratory.Laboratory(
        model,
        train,
        head.data,
        validate=validate,
        task=None if head.task == "auto" else head.task,
        seed=head.seed,
        trust=trust.all,
        custom_objects=custom,
    )


def _check_options(job: Job, writer: formats.Format) -> None:
    """Refuses options that the output's format has no use for."""
    packs = writer.NAME == "mcut"
    if job.coder is not None and not packs:
        raise UsageError(f"--coder: {job.output} is no packed file", "name the output .mcut")
    own = getattr(writer, "OWN_CODING", "")
    if job.compression is not None and own:
        raise UsageError(f"--compression: {job.output}: {own}", "leave it out")
    if job.keep_optimizer and formats.needs_engine(writer):
        raise UsageError(f"--keep-optimizer: {job.output} has no place for it", "leave it out")


def _check_export(job: Job, *, needed: bool) -> None:
    """Holds what a .tflite needs against what was given."""
    options = job.recipe.head.export
    if needed and options.calibrated and job.calibrate is None:
        raise UsageError(
            f"a .tflite of type {options.type} needs calibration rows",
            "add --calibrate FILE.csv, with rows like those of the training",
        )
    if needed and not options.calibrated and job.calibrate is not None:
        raise UsageError(f"a .tflite of type {options.type} is not calibrated", "--type int8 is")


def _convert(
    job: Job,
    provenance: Mapping[str, Any],
    scratch: Model,
    target: Path,
    name: str,
    twin: Path | None,
) -> Mapping[str, Any]:
    """Has a .tflite made of a model in its own format."""
    from modelcut import laboratory
    from modelcut.engines import litert

    options = job.recipe.head.export
    return litert.convert(
        {
            "source": str(scratch.origin.path),
            "shown": str(job.model),
            "dialect": scratch.origin.dialect,
            "suffix": laboratory.SUFFIXES[scratch.origin.format],
            "trust": job.trust.all,
            "custom_objects": job.trust.custom_objects,
            "target": str(target),
            "twin": str(twin) if twin else None,
            "type": options.type,
            "io": options.io,
            "samples": options.samples,
            "calibrate": str(job.calibrate) if job.calibrate else None,
            "data": job.recipe.head.data.model_dump(mode="json", exclude_unset=True),
            "metadata": name,
            "provenance": json.dumps(provenance, sort_keys=True),
        }
    )


def _architecture_text(model: Model) -> str:
    return model.architecture.text if model.architecture is not None else ""


def _measure_rest(models: Sequence[Model], meters: dict[build.Identity, Meter]) -> None:
    """Pulls the tensors that no writer pulled: those that a step replaced by others."""
    for model in reversed(models):
        for tensor in model.tensors:
            if identity(tensor) not in meters:
                meters[identity(tensor)] = meter = Meter(deflate=True)
                tensor.pull(meter)


def _refuse_nan(report: Mapping[str, Any]) -> None:
    """Refuses a network that diverged in training: there is nothing left in it to compress."""
    for layer in report["layers"]:
        for row in layer["tensors"]:
            before = row["before"]
            if before["size"] and before["nonfinite"] == before["size"]:
                raise InputError(
                    f"{report['input']['path']}: {row['name']}: all values are NaN or infinite",
                    "the training diverged; use an earlier checkpoint",
                )


def _check_same(model: Model, again: Model, output: Path) -> None:
    """Holds the written file, read as a stranger's, against what was meant: layers and shapes."""
    meant = {(tensor.name, tensor.shape) for tensor in model.tensors}
    found = {(tensor.name, tensor.shape) for tensor in again.tensors}
    if meant != found:
        odd = sorted(name for name, _ in meant ^ found)[:3]
        raise ModelcutError(
            f"{output}: what was written does not read back the same ({', '.join(odd)})",
            "this is a mistake of modelcut: please report it with the input",
        )


def _provenance(job: Job, model: Model, digest: Digest) -> dict[str, Any]:
    """What the output remembers of how it was made; the same for the same job."""
    entry = {
        "modelcut": __version__,
        "input_sha256": digest.hex(),
        "recipe": job.recipe.to_dict(),
        "versions": {name: versions()[name] for name in ("numpy", "h5py", "isal")},
    }
    earlier = list(model.origin.provenance.get("history", []))
    if job.lossless and earlier:
        return dict(model.origin.provenance)
    return {"history": [*earlier, entry]}


def _report_paths(output: Path) -> dict[str, Path]:
    """`small.h5` -> `small.report.json`, `small.report.md`."""
    stem = output.name.removesuffix(output.suffix) if output.suffix else output.name
    return {kind: output.with_name(f"{stem}.report.{kind}") for kind in ("json", "md")}


def _is_ours(path: Path) -> bool:
    """Whether modelcut wrote the file, so that it may be written again."""
    if path.name.endswith((".report.json", ".report.md")):
        with path.open("rb") as file:
            return build.SCHEMA.partition("/")[0].encode() in file.read(4096)
    with contextlib.suppress(ModelcutError, OSError):
        origin = formats.open_model(path).origin
        return bool(origin.provenance or origin.container)
    return False


def _data_warnings(report: dict[str, Any]) -> list[str]:
    evaluation = report["evaluation"] or {}
    return list((evaluation.get("after") or {}).get("warnings", []))
