"""The search: points are tried, hopeless ones are given up early, the best is made and tested."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from signal import SIGINT
from typing import Any

from modelcut import __version__
from modelcut.arrays import digest as digests
from modelcut.errors import InfeasibleError, Stopped
from modelcut.formats import registry
from modelcut.job import pipeline, provenance, start
from modelcut.job.check import check_installed, check_runnable
from modelcut.job.digest import Digest, size
from modelcut.job.outputs import Outputs
from modelcut.job.request import Job
from modelcut.job.session import Session
from modelcut.job.watched import reading
from modelcut.recipe.recipe import Recipe, parse
from modelcut.recipe.yaml_text import Document
from modelcut.report.schema import Report
from modelcut.tuner import samples
from modelcut.tuner.choice import choose, front_of, passed_over
from modelcut.tuner.journal import STATES, Journal
from modelcut.tuner.loop import Loop, Say
from modelcut.tuner.record import (
    Trial,
    none_meets,
    original_accuracy,
    samples_of,
    warnings_of,
)
from modelcut.tuner.request import Request, check
from modelcut.tuner.sampler import Sampler, open_sampler
from modelcut.tuner.trial import Setting, measured
from modelcut.tuner.workers import open_workers

SCHEMA = "modelcut-search/1"
_MOST_FRONT = 10


def search(request: Request, say: Say = lambda _: None) -> Report:
    """Searches, writes the best model with its report, recipe and record, and tests it once.

    Beside the output `best.mcut` are written `best.recipe.yaml`, which gives the same file again by
    `modelcut run`, and `best.search.json` with every trial.

    Raises:
        InfeasibleError: no trial meets the limits; only the record is written.
        ModelcutError: nothing can be searched; what was tried so far is kept for the same command.
    """
    check(request)
    with reading(request.model), registry.open_model(request.model) as model:
        check_installed(request.output, registry.for_output(request.output, model))
        check_runnable(model, request.trust)
        tested = samples.check(request, model, say)
    request = replace(request, goal=replace(request.goal, tested=tested))
    places = places_of(request.output)
    with (
        Digest(request.model) as digest,
        Outputs(request.sources, force=request.force, ours=_is_ours) as outputs,
        contextlib.ExitStack() as ending,
    ):
        drafts = {name: outputs.add(place) for name, place in places.items()}
        journal = ending.enter_context(Journal(request.folder, _identity(request, digest)))
        began = time.monotonic()
        train, validation = samples.of(request, journal.folder, say)
        setting = _setting(request, journal.folder, train, validation)
        trials = journal.trials()
        resumed = len(trials)
        sampler = open_sampler(request.goal, request.seed, request.trials)
        interrupted = _interrupted(request, setting, sampler, journal, trials, say, ending)
        chosen, sure = choose(trials, request.goal)
        front = front_of(trials, request.goal)
        lucky = [] if chosen is None else passed_over(trials, chosen, request.goal)
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "modelcut": __version__,
            "versions": provenance.versions(),
            "input": {
                "path": str(request.model),
                "bytes": size(request.model),
                "blake3": digest.blake3,
            },
            "sampler": sampler.name,
            "seed": request.seed,
            "objectives": [
                {"name": each.name, "minimize": each.minimize} for each in request.goal.objectives
            ],
            "limits": {name: limit for name, limit, _ in request.goal.gates.items()},
            "confidence": request.goal.confidence,
            "space": request.space.document.data,
            "validation": {
                "path": str(request.validation or request.train or ""),
                "samples": samples_of(trials),
            },
            "interrupted": interrupted,
            "seconds": {
                "search": time.monotonic() - began,
                "trials": sum(trial.result.seconds for trial in trials[resumed:]),
                "resumed_trials": resumed,
            },
            "chosen": None if chosen is None else chosen.number,
            "sure": sure,
            "passed_over": lucky,
            "front": [trial.number for trial in front],
            "tested": [],
            "trials": [trial.to_dict() for trial in sorted(trials, key=lambda each: each.number)],
        }
        if chosen is None:
            outputs.drop(drafts["recipe"])
            _write(drafts["search"], json.dumps(record, indent=1))
            outputs.publish()
            journal.remove()
            raise InfeasibleError(*none_meets(request, trials, places["search"]))
        recipe = parse(Document("best.recipe.yaml", chosen.recipe))
        if request.test is None:
            # Nothing measures them; they held on the validation samples.
            gates = recipe.head.gates.asked_with_data()
            recipe = replace(recipe, head=recipe.head.model_copy(update={"gates": gates}))
        say("making the best model")
        facts = {
            "trials": len(trials),
            "chosen": chosen.number,
            "validation": {
                "samples": samples_of(trials),
                **chosen.result.measured,
                "original_accuracy": original_accuracy(chosen),
            },
            "warnings": warnings_of(request, trials, chosen, sure=sure),
            "passed_over": lucky,
            "front": [trial.number for trial in front],
            "tried": [
                {"number": trial.number, "held": trial.result.excess == 0, **trial.result.measured}
                for trial in sorted(trials, key=lambda each: each.number)
                if not trial.result.error
            ],
        }
        report = _made(request, setting, recipe, facts, say)
        record["tested"] = _tested(request, setting, front, chosen, report, say)
        _write(drafts["recipe"], f"{_MARK}{request.output.name}\n{recipe.to_yaml()}")
        _write(drafts["search"], json.dumps(record, indent=1))
        outputs.publish()
        journal.remove()
    return report


def _setting(
    request: Request, folder: Path, train: Path | None, validation: Path | None
) -> Setting:
    """What all trials have in common, with whole paths: a worker may stand in another folder."""
    code = Path(request.trust.custom_objects)
    trust = request.trust
    if code.is_file():
        trust = replace(trust, custom_objects=str(code.absolute()))
    calibrate = request.calibrate or request.train
    return Setting(
        request.model.absolute(),
        registry.suffix_of(request.output),
        folder.absolute(),
        train and train.absolute(),
        validation and validation.absolute(),
        calibrate and calibrate.absolute(),
        trust,
        folder.absolute() / STATES,
        options=request.options,
    )


def places_of(output: Path) -> dict[str, Path]:
    """`best.mcut` -> `best.recipe.yaml` and `best.search.json`."""
    stem = output.name.removesuffix(registry.suffix_of(output))
    names = {"recipe": f"{stem}.recipe.yaml", "search": f"{stem}.search.json"}
    return {name: output.with_name(file) for name, file in names.items()}


_MARK = "# Found by `modelcut search` for "


def _is_ours(path: Path) -> bool:
    """Whether a search wrote the file."""
    with path.open("rb") as file:
        head = file.read(200)
    return head.startswith(_MARK.encode()) or b'"modelcut-search/' in head


def _write(draft: Path, text: str) -> None:
    draft.write_text(text + ("" if text.endswith("\n") else "\n"), encoding="utf-8")


def _interrupted(
    request: Request,
    setting: Setting,
    sampler: Sampler,
    journal: Journal,
    trials: list[Trial],
    say: Say,
    ending: contextlib.ExitStack,
) -> bool:
    """Tries points until there are enough; true if an interrupt ended it.

    Worker processes need seconds to end: the best model is made meanwhile, and `ending` waits.
    """
    with contextlib.ExitStack() as opened:
        try:
            workers = opened.enter_context(
                open_workers(
                    setting,
                    request.goal,
                    workers=request.workers,
                    scheduler=request.scheduler,
                    say=say,
                )
            )
            Loop(request, sampler, journal, workers, trials, say).run()
        except (Stopped, KeyboardInterrupt) as error:
            if not request.keep_best or getattr(error, "number", SIGINT) != SIGINT:
                raise
            return True
        thread = threading.Thread(target=_closed, args=(opened.pop_all(),))
        thread.start()
        ending.callback(thread.join)
    return False


def _closed(opened: contextlib.ExitStack) -> None:
    """Ends worker processes; one that does not end in time is killed by Dask, and not told of."""
    with contextlib.suppress(Exception):
        opened.close()


def _made(
    request: Request, setting: Setting, recipe: Recipe, facts: Mapping[str, Any], say: Say
) -> Report:
    """Runs the chosen recipe on all training data, as `modelcut run` does, and tests it."""
    job = setting.job(recipe, request.output, request.test)
    job = replace(
        job,
        model=request.model,
        recipe=recipe,
        train=request.train,
        calibrate=job.calibrate and (request.calibrate or request.train),
        trust=request.trust,
        force=request.force,
        report=True,
        search=facts,
        keep_on_failure=False,
    )
    # A training on the same samples was done by its trial, and its state is still there.
    report = pipeline.run(job, say, session=Session(setting.states, setting.most_states))
    assert isinstance(report, Report)
    return report


def _tested(
    request: Request,
    setting: Setting,
    front: Sequence[Trial],
    chosen: Trial,
    report: Report,
    say: Say,
) -> list[dict[str, Any]]:
    """What the test data says of the chosen model, and of a front of several objectives."""
    found = [{"number": chosen.number, **measured(report)}]
    if len(request.goal.objectives) < 2 or request.test is None:
        return found
    for trial in [each for each in front if each.number != chosen.number][:_MOST_FRONT]:
        say(f"testing trial {trial.number + 1} of the front")
        output = setting.folder / f"front{setting.suffix}"
        recipe = parse(Document("front", trial.recipe))
        job: Job = replace(setting.job(recipe, output, request.test), train=request.train)
        tested = pipeline.run(job)
        assert isinstance(tested, Report)
        found.append({"number": trial.number, **measured(tested)})
    return found


def _identity(request: Request, digest: Digest) -> dict[str, str]:
    """What must be the same for a search to be the same, each by its name for messages."""
    job = Job(
        request.model,
        request.space.at({}),
        request.output,
        train=request.train,
        validate=request.validation,
    )
    found = start.identity(job, digest)
    found["recipe"] = json.dumps(request.space.document.data, sort_keys=True)
    found["goal"] = json.dumps(
        [
            [[each.name, each.minimize] for each in request.goal.objectives],
            request.goal.gates.model_dump(mode="json"),
            request.goal.confidence,
            request.goal.tested,
        ]
    )
    found["seed"] = str(request.seed)
    return {name: digests.of_text(text) for name, text in found.items()}
