"""The main job: check, fold the steps, write, re-read, evaluate, judge, and only then publish.

What is reported is what was written: sizes from the meters that watched the writer, metrics from
the written file. Nothing appears at the output's place before all of it is done.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from modelcut import __version__, formats, graph, safety
from modelcut.coding import Coder
from modelcut.digest import Digest, sha256, size
from modelcut.errors import InputError, ModelcutError, UsageError
from modelcut.measure import Meter
from modelcut.model import Model
from modelcut.output import Outputs
from modelcut.recipe import Recipe
from modelcut.report import build, render
from modelcut.report.build import Passage, identity
from modelcut.step import Context, Outcome


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
    _check_needs(job)
    inputs = [path for path in (job.model, job.test, job.train) if path is not None]
    for path in inputs:
        safety.check_path(path)
    with Digest(job.model) as digest:
        model = formats.open_model(job.model)
        writer = formats.for_output(job.output, model)
        _check_options(job, writer)
        outputs = Outputs(inputs, force=job.force, in_place=job.in_place, ours=_is_ours)
        warnings = [*model.origin.warnings, *safety.passengers(_architecture_text(model))]
        if job.test is not None:
            _check_runnable(model, job.trust)
        with outputs:
            target = outputs.add(job.output)
            pages = _report_paths(job.output) if job.report else {}
            drafts = {kind: outputs.add(path) for kind, path in pages.items()}
            say("planning")
            models, outcomes, seconds = fold(model, job.recipe, say)
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
                    meter=lambda tensor: meters.setdefault(identity(tensor), Meter(deflate=True)),
                ),
            )
            _measure_rest(models, meters)
            _check_written(models[-1], target, job.output)
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
                "compression": None if written.coders else job.compression or "fast",
                "dropped": list(written.dropped),
            }
            if job.test is not None:
                say("evaluating")
                report["evaluation"] = evaluate(
                    job.recipe, job.test, [(job.model, model), (target, models[-1])], job.trust
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


def fold(model: Model, recipe: Recipe, say: Say) -> tuple[list[Model], list[Outcome], list[float]]:
    """Applies the steps in order; nothing but surveys is computed yet.

    Returns:
        The model as read and after each step, the outcomes, and the seconds of each step.
    """
    models, outcomes, seconds = [model], [], []
    for index, step in enumerate(recipe.steps):
        say(step.title)
        start = time.perf_counter()
        outcome = step.apply(models[-1], Context(index=index, seed=recipe.head.seed, say=say))
        seconds.append(time.perf_counter() - start)
        outcomes.append(outcome)
        models.append(outcome.model)
    return models, outcomes, seconds


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
    from modelcut import engines, evaluation, metrics

    custom = engines.load_custom_objects(trust.custom_objects) if trust.custom_objects else {}
    networks = []
    for path, model in candidates:
        with formats.plain_file(path) as (file, suffix):
            networks.append(
                engines.open_network(
                    file,
                    model.origin.dialect,
                    suffix=suffix,
                    loss=_loss(model),
                    trust=trust.all,
                    custom_objects=custom,
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


def _loss(model: Model) -> str | None:
    """The loss that the model was compiled with, as the file says it."""
    assert model.architecture is not None
    training: Any = model.architecture.root.get("compile_config")
    if model.origin.training:
        training = safety.load_json(
            model.origin.training, where=str(model.origin.path), what="training configuration"
        )
    loss = training.get("loss") if isinstance(training, dict) else None
    while isinstance(loss, (list, dict)) and loss:
        inner = loss.get("class_name") if isinstance(loss, dict) else None
        loss = inner or next(iter(loss.values() if isinstance(loss, dict) else loss))
    return loss if isinstance(loss, str) else None


def versions() -> dict[str, str]:
    """Of what took part, as far as it is installed; nothing is imported for it."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "h5py", "isal", "tensorflow", "keras", "tf_keras"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def look(
    path: Path, recipe: Recipe | None = None, say: Say = lambda _: None
) -> tuple[Model, dict[str, Any]]:
    """Reads a model and measures it without changing or writing anything.

    Args:
        path: the model.
        recipe: planned on it (a dry run): the report then tells what it would do.
        say: takes a line about progress.

    Returns:
        The model, and a report without output and evaluation.
    """
    safety.check_path(path)
    with Digest(path) as digest:
        model = formats.open_model(path)
        models, outcomes, seconds = fold(model, recipe, say) if recipe else ([model], [], [])
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


def _check_needs(job: Job) -> None:
    """Holds what the recipe needs against what was given."""
    for index, step in enumerate(job.recipe.steps):
        if "train" in step.needs and job.train is None:
            raise UsageError(
                f"step {index + 1}, {step.title}: needs training data", "add --train FILE.csv"
            )
    if job.test is None and job.recipe.head.gates.needing_data():
        names = ", ".join(job.recipe.head.gates.needing_data())
        raise UsageError(f"the gate {names} needs test data", "add --test FILE.csv")


def _check_runnable(model: Model, trust: Trust) -> None:
    """Refuses what an engine must not be started on."""
    if model.architecture is None:
        raise InputError(
            f"{model.origin.path}: holds weights only, no network that could be run",
            "evaluate the whole model, or leave out --test",
        )
    safety.check_runnable(
        model.architecture.text,
        model.origin.training,
        where=str(model.origin.path),
        trust=trust.all,
        custom=bool(trust.custom_objects),
    )
    graph.check_sizes(model)


def _check_options(job: Job, writer: formats.Format) -> None:
    """Refuses options that the output's format has no use for."""
    packs = writer.NAME == "mcut"
    if job.coder is not None and not packs:
        raise UsageError(f"--coder: {job.output} is no packed file", "name the output .mcut")
    if job.compression is not None and packs:
        raise UsageError("--compression: a packed file has its own", "choose with --coder")


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


def _check_written(model: Model, written: Path, output: Path) -> None:
    """Reads the written file again, as a stranger's: layers, names and shapes must be there."""
    again = formats.open_model(written)
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
