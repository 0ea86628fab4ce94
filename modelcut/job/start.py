"""What a recipe with training or searching steps is started with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from modelcut import __version__
from modelcut.arrays.digest import of_text
from modelcut.errors import UsageError
from modelcut.job import provenance
from modelcut.job.check import check_trainable, own_objects
from modelcut.job.digest import Digest, blake3
from modelcut.job.request import Job, Say, Trust
from modelcut.model.model import Model
from modelcut.recipe.recipe import Recipe

if TYPE_CHECKING:
    from modelcut.engines.keras.team import Team
    from modelcut.job.checkpoint import Checkpoint
    from modelcut.job.engine_runtime import EngineRuntime


def team_for(job: Job, digest: Digest) -> Team | None:
    """Who trains together, once all of them are known to do the same; None where nothing trains.

    Raises:
        UsageError: nothing trains, or the workers were told different things.
        PeerError: a worker did not come, or was lost.
    """
    if not any("loop" in step.needs for step in job.recipe.steps):
        if job.distribute in ("mirrored", "multiworker"):
            raise UsageError(
                f"--distribute {job.distribute}: no step of the recipe trains", "finetune does"
            )
        return None
    from modelcut.engines.keras import team

    found = team.start(job.distribute)
    if found.workers > 1:
        same = identity(job, digest).items()
        found.check_same({what: bytes.fromhex(of_text(text)) for what, text in same})
    return found


def checkpoint_for(job: Job, digest: Digest, *, writes: bool) -> Checkpoint | None:
    """Where the state of the trainings is kept, if it is to be.

    Raises:
        ModelcutError: nothing trains, or what is there is not this job's.
    """
    if job.checkpoint is None:
        return None
    if not any(step.resumable for step in job.recipe.steps):
        raise UsageError("--checkpoint: the recipe has no step finetune", "only those are kept")
    from modelcut.job.checkpoint import Checkpoint

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
        "model": digest.blake3,
        "CSV for --train": blake3(job.train) if job.train else "",
        "CSV for --validate": blake3(job.validate) if job.validate else "",
        **({"CSV for --calibrate": blake3(job.calibrate)} if job.calibrate else {}),
    }


def runtime_for(
    model: Model,
    recipe: Recipe,
    train: Path | None,
    validate: Path | None,
    trust: Trust,
    team: Team | None = None,
    calibrate: Path | None = None,
    say: Say = lambda _: None,
) -> EngineRuntime | None:
    """Where the recipe has steps that train or search: what they do it with."""
    wanted = {"train", "validation", "calibration"}
    if (train or validate or calibrate) is None or not any(
        wanted & step.needs for step in recipe.steps
    ):
        return None
    return open_runtime(model, recipe, train, validate, trust, team, calibrate, say)


def open_runtime(
    model: Model,
    recipe: Recipe,
    train: Path | None,
    validate: Path | None,
    trust: Trust,
    team: Team | None = None,
    calibrate: Path | None = None,
    say: Say = lambda _: None,
) -> EngineRuntime:
    """A runtime for a model; nothing is started yet.

    Raises:
        ModelcutError: the model cannot or must not be run.
    """
    from modelcut import engines
    from modelcut.job import engine_runtime
    from modelcut.job.data_check import check_data
    from modelcut.job.targets import Wanted

    custom = own_objects(trust)
    check_trainable(model, trust=trust.all, custom=engines.names_of(custom))
    head = recipe.head
    wanted = Wanted(head.task, head.from_logits)
    for path in (train, validate, calibrate):
        if path is not None:
            labelled = path in (train, validate)
            check_data(model, path, head.data, wanted, labelled=labelled)
    return engine_runtime.EngineRuntime(
        model,
        train,
        head.data,
        validate=validate,
        calibrate=calibrate,
        wanted=wanted,
        seed=head.seed,
        trust=trust.all,
        custom_objects=custom,
        custom_module=trust.custom_objects,
        team=team,
        say=say,
    )
