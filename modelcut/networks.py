"""What needs a network to run: evaluating, training, converting; and whether it may run at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelcut import __version__, formats, provenance, safety
from modelcut.checkpoint import Checkpoint
from modelcut.digest import Digest, sha256, sha256_of
from modelcut.errors import UsageError
from modelcut.job import Job, Trust
from modelcut.lab import Lab
from modelcut.model import Model
from modelcut.recipe import Recipe

if TYPE_CHECKING:
    from modelcut.engines.team import Team


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


def load(path: Path, trust: bool, custom_objects: Mapping[str, Any]) -> Any:
    """A model of any kind that modelcut reads as a Keras model; see `modelcut.load`."""
    from modelcut import engines

    safety.check_path(path)
    model = formats.open_model(path)
    check_runnable(model, Trust(trust, "given" if custom_objects else ""))
    with formats.plain_file(path) as (file, suffix):
        network: Any = engines.open_network(
            file,
            model.origin.dialect,
            suffix=suffix,
            trust=trust,
            custom_objects=custom_objects,
            apart=False,
        )
    return network.model


def check_runnable(model: Model, trust: Trust) -> None:
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


def team_for(job: Job, digest: Digest) -> Team | None:
    """Who trains together, once all of them are known to do the same; None where nothing trains.

    Raises:
        UsageError: nothing trains, or the workers were told different things.
        PeerError: a worker did not come, or was lost.
    """
    if not any("loop" in step.wants for step in job.recipe.steps):
        if job.distribute in ("mirrored", "multiworker"):
            raise UsageError(
                f"--distribute {job.distribute}: no step of the recipe trains", "finetune does"
            )
        return None
    from modelcut.engines import team

    found = team.start(job.distribute)
    if found.workers > 1:
        found.check_same({what: sha256_of(text) for what, text in identity(job, digest).items()})
    return found


def checkpoint_for(job: Job, digest: Digest, *, writes: bool) -> Checkpoint | None:
    """Where the state of the trainings is kept, if it is to be.

    Raises:
        ModelcutError: nothing trains, or what is there is not this job's.
    """
    if job.checkpoint is None:
        return None
    if not any("loop" in step.needs for step in job.recipe.steps):
        raise UsageError("--checkpoint: the recipe has no step finetune", "only those are kept")
    return Checkpoint(
        job.checkpoint,
        identity(job, digest),
        resume=job.resume,
        every=job.checkpoint_every,
        writes=writes,
    )


def identity(job: Job, digest: Digest) -> dict[str, str]:
    """What must be the same for a training to be the same, each by its name for messages."""
    return {
        "version of modelcut or its libraries": json.dumps([__version__, provenance.versions()]),
        "recipe": json.dumps(job.recipe.to_dict(), sort_keys=True),
        "model": digest.hex(),
        "CSV for --train": sha256(job.train) if job.train else "",
        "CSV for --validate": sha256(job.validate) if job.validate else "",
    }


def laboratory_for(
    model: Model,
    recipe: Recipe,
    train: Path | None,
    validate: Path | None,
    trust: Trust,
    team: Team | None = None,
) -> Lab | None:
    """Where the recipe has steps that train or search: what they do it with."""
    wanted = {"train", "validation"}
    if (train or validate) is None or not any(wanted & step.wants for step in recipe.steps):
        return None
    return open_laboratory(model, recipe, train, validate, trust, team)


def open_laboratory(
    model: Model,
    recipe: Recipe,
    train: Path | None,
    validate: Path | None,
    trust: Trust,
    team: Team | None = None,
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
        team=team,
    )


def conversion(job: Job, history: Callable[[], Mapping[str, Any]]) -> formats.Conversion:
    """How a file is made by an engine, for a writer that needs to know."""
    return formats.Conversion(
        partial(_convert, job, history), quantizes=job.recipe.head.export.quantizes
    )


def _convert(
    job: Job,
    history: Callable[[], Mapping[str, Any]],
    scratch: Model,
    target: Path,
    kind: str,
    twin: Path | None,
) -> Mapping[str, Any]:
    """Has an engine make a file of another kind of a model in its own format.

    Args:
        job: what was asked for.
        history: how the model was made.
        scratch: the model, in a scratch file.
        target: the file or folder to make.
        kind: name of its format.
        twin: where to put one that is not quantized; None: nowhere.

    Raises:
        UnsafeError: what the engine would build carries code. A SavedModel that is run as a graph
            was not looked at for that.
    """
    check_runnable(scratch, job.trust)
    own = formats.module(scratch.origin.format)
    request: dict[str, Any] = {
        "source": str(scratch.origin.path),
        "shown": str(job.model),
        "dialect": scratch.origin.dialect,
        "suffix": formats.engine_suffix(own),
        "trust": job.trust.all,
        "custom_objects": job.trust.custom_objects,
        "target": str(target),
    }
    if kind == "saved_model":
        from modelcut.engines import saved_model

        return saved_model.export(request)
    from modelcut.engines import litert
    from modelcut.formats.litert import METADATA

    options, data = job.recipe.head.export, job.recipe.head.data
    request |= {
        "signature": data.signature if scratch.origin.format == "saved_model" else None,
        "twin": str(twin) if twin else None,
        "type": options.type,
        "sparse": options.sparse,
        "io": options.io,
        "samples": options.samples,
        "calibrate": str(job.calibrate) if job.calibrate else None,
        "data": data.model_dump(mode="json", exclude_unset=True),
        "metadata": METADATA,
        "provenance": json.dumps(history(), sort_keys=True),
    }
    if not options.sparse:
        return litert.convert(request)
    with tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
        dense = Path(folder) / "dense.tflite"
        facts = litert.convert({**request, "twin": str(dense)})
        facts["sparse"] = {
            "bytes": target.stat().st_size,
            "dense_bytes": dense.stat().st_size,
            "ms": litert.milliseconds(target),
            "dense_ms": litert.milliseconds(dense),
        }
    return facts


def write_header(job: Job, made: Path, draft: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a .tflite as a C array beside it, the arena measured; facts for the report.

    Args:
        job: what was asked.
        made: the .tflite.
        draft: where to write to.
        facts: about the .tflite.
    """
    from modelcut.engines import litert
    from modelcut.formats import _c_array

    arena = litert.arena(made, len(facts["inputs"]))
    pieces = _c_array.text(made.read_bytes(), job.output.stem, facts, arena)
    with draft.open("w", encoding="utf-8") as file:
        file.writelines(pieces)
    return {"path": str(job.header), "arena": arena}
