"""The search: points are tried, hopeless ones are given up early, the best is made and tested."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGINT
from typing import Any

from modelcut import __version__
from modelcut.arrays import digest as digests
from modelcut.errors import InfeasibleError, InputError, RecipeError, Stopped
from modelcut.formats import registry
from modelcut.job import pipeline, provenance, start
from modelcut.job.check import check_runnable
from modelcut.job.digest import Digest, size
from modelcut.job.outputs import Outputs
from modelcut.job.request import Job
from modelcut.job.watched import reading
from modelcut.recipe.recipe import Recipe, parse
from modelcut.recipe.space import Space
from modelcut.recipe.yaml_text import Document
from modelcut.report.schema import Report
from modelcut.tuner.goal import Goal, dominates
from modelcut.tuner.journal import Journal
from modelcut.tuner.request import Request, check
from modelcut.tuner.sampler import Asked, Random, Sampler, open_sampler
from modelcut.tuner.trial import Result, Setting, fractions, measured
from modelcut.tuner.workers import Task, Workers, open_workers

SCHEMA = "modelcut-search/1"
_RIVALS = 3
"""A trial is given up when so many others of the same length of training are better in all."""
_MOST_FRONT = 10
_FAILURES = 5
"""The search ends when so many trials fail, and none succeeded before."""


@dataclass(frozen=True)
class Trial:
    """A point that was tried.

    Attributes:
        number: number of the trial, from 0.
        recipe: the recipe as plain data.
        result: what it gave.
        pruned: whether it was given up before the whole training.
    """

    number: int
    recipe: Mapping[str, Any]
    result: Result
    pruned: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "number": self.number,
            "recipe": dict(self.recipe),
            "pruned": self.pruned,
            **self.result.to_dict(),
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Trial:
        """A trial from its JSON data."""
        rest = {name: value for name, value in record.items() if name not in _OWN}
        rest["values"], rest["gates"] = tuple(rest["values"]), tuple(rest["gates"])
        return cls(record["number"], record["recipe"], Result(**rest), record["pruned"])


_OWN = ("number", "recipe", "pruned")


Say = Callable[[str], None]


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
        check_runnable(model, request.trust)
    places = places_of(request.output)
    with (
        Digest(request.model) as digest,
        Outputs(request.sources, force=request.force, ours=_is_ours) as outputs,
    ):
        drafts = {name: outputs.add(place) for name, place in places.items()}
        journal = Journal(request.folder, _identity(request, digest))
        began = time.monotonic()
        train, validation = _data(request, journal.folder, say)
        setting = Setting(
            request.model,
            registry.suffix_of(request.output),
            journal.folder,
            train,
            validation,
            request.calibrate or request.train,
            request.trust,
            journal.folder / "states",
            options=request.options,
        )
        trials = [Trial.of(record) for record in journal.records()]
        resumed = len(trials)
        sampler = _sampler(request, journal, trials)
        interrupted = _interrupted(request, setting, sampler, journal, trials, say)
        chosen, sure = choose(trials, request.goal)
        front = front_of(trials, request.goal)
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
                "samples": _samples(trials),
            },
            "interrupted": interrupted,
            "seconds": {
                "search": time.monotonic() - began,
                "trials": sum(trial.result.seconds for trial in trials[resumed:]),
                "resumed_trials": resumed,
            },
            "chosen": None if chosen is None else chosen.number,
            "sure": sure,
            "front": [trial.number for trial in front],
            "tested": [],
            "trials": [trial.to_dict() for trial in sorted(trials, key=lambda each: each.number)],
        }
        if chosen is None:
            outputs.drop(drafts["recipe"])
            _write(drafts["search"], json.dumps(record, indent=1))
            outputs.publish()
            journal.remove()
            raise InfeasibleError(*_none(request, trials, places["search"]))
        recipe = parse(Document("best.recipe.yaml", chosen.recipe))
        say("making the best model")
        facts = {
            "trials": len(trials),
            "chosen": chosen.number,
            "validation": {"samples": _samples(trials), **chosen.result.measured},
            "warnings": _warnings(request, trials, chosen, sure=sure),
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


def _none(request: Request, trials: Sequence[Trial], record: Path) -> tuple[str, str]:
    """What is to be said where no trial meets the limits."""
    measured = [trial for trial in trials if not trial.result.error]
    if not measured:
        why = trials[-1].result.error if trials else "no trial was made"
        return f"{request.model}: every trial failed: {why}", f"{record} has all of them"
    nearest = min(measured, key=lambda trial: trial.result.excess)
    failed = ", ".join(
        f"{gate['name']} {gate['value']:.4g} (limit {gate['limit']:g})"
        for gate in nearest.result.gates
        if not gate["held"] and gate["value"] is not None
    )
    return (
        f"{request.model}: none of {len(trials)} trials meets the limits; the nearest: {failed}",
        f"{record} has all of them; allow more, or try more with --trials",
    )


def choose(trials: Sequence[Trial], goal: Goal) -> tuple[Trial | None, bool]:
    """The trial that is chosen, and whether its limits hold with the goal's confidence.

    Among those whose limits hold with that confidence, or else among those whose limits hold at
    all, the one with the least cost; the earliest of equals.
    """
    for sure in (True, False):
        fit = [
            trial
            for trial in trials
            if trial.result.feasible and not trial.pruned and (trial.result.sure or not sure)
        ]
        if fit:
            costs = {trial.number: goal.costs(trial.result.values) for trial in fit}
            return min(fit, key=lambda trial: (costs[trial.number], trial.number)), sure
    return None, False


def front_of(trials: Sequence[Trial], goal: Goal) -> list[Trial]:
    """The trials that no other one is better than in every objective; the limits hold for all."""
    fit = [trial for trial in trials if trial.result.feasible and not trial.pruned]
    costs = {trial.number: goal.costs(trial.result.values) for trial in fit}
    front = [
        trial
        for trial in fit
        if not any(dominates(costs[other.number], costs[trial.number]) for other in fit)
    ]
    distinct = {costs[trial.number]: trial for trial in reversed(front)}
    return sorted(distinct.values(), key=lambda trial: costs[trial.number])


def _interrupted(
    request: Request,
    setting: Setting,
    sampler: Sampler,
    journal: Journal,
    trials: list[Trial],
    say: Say,
) -> bool:
    """Tries points until there are enough; true if an interrupt ended it."""
    try:
        with open_workers(
            setting, request.goal, workers=request.workers, scheduler=request.scheduler, say=say
        ) as workers:
            _Loop(request, sampler, journal, workers, trials, say).run()
    except (Stopped, KeyboardInterrupt) as error:
        if not request.keep_best or getattr(error, "number", SIGINT) != SIGINT:
            raise
        return True
    return False


class _Loop:
    """Keeps the workers busy."""

    def __init__(
        self,
        request: Request,
        sampler: Sampler,
        journal: Journal,
        workers: Workers,
        trials: list[Trial],
        say: Say,
    ) -> None:
        self._request = request
        self._sampler = sampler
        self._journal = journal
        self._workers = workers
        self._trials = trials
        self._say = say
        self._began = time.monotonic()
        self._asked: dict[int, Asked] = {}
        self._recipes: dict[int, dict[str, Any]] = {}
        self._results: dict[str, Result] = {}
        self._rungs: dict[float, list[tuple[float, ...]]] = {}
        self._spent: dict[int, float] = {}
        for trial in trials:
            self._results[_key(trial.recipe)] = trial.result

    def run(self) -> None:
        while True:
            while len(self._asked) < self._workers.count and self._more():
                self._begin()
            if not self._asked:
                return
            self._end(*self._workers.next())

    def _more(self) -> bool:
        if len(self._trials) + len(self._asked) >= self._request.trials:
            return False
        limit = self._request.seconds
        return limit is None or time.monotonic() - self._began < limit

    def _begin(self) -> None:
        asked = self._sampler.ask()
        recipe = self._recipe(asked)
        if recipe is None:
            return
        known = self._results.get(_key(recipe))
        if known is not None and known.fraction == 1:
            self._keep(asked, recipe, replace(known, seconds=0.0))
            return
        self._asked[asked.number], self._recipes[asked.number] = asked, recipe
        self._progress(asked.number)
        self._workers.submit(Task(asked.number, recipe, fractions(recipe)[0]))

    def _recipe(self, asked: Asked) -> dict[str, Any] | None:
        """The recipe of a point; None where its values do not go together."""
        space = self._request.space
        try:
            made = space.fill(asked.value)
        except RecipeError as error:
            self._keep(asked, {"steps": []}, Result(error=str(error)))
            return None
        gates = self._request.goal.gates
        head = made.head.model_copy(update={"gates": gates})
        return replace(made, head=head).to_dict()

    def _end(self, task: Task, result: Result) -> None:
        number = task.number
        self._spent[number] = self._spent.get(number, 0.0) + result.seconds
        if not result.error and task.fraction < 1:
            cost = (*self._request.goal.costs(result.values), result.excess)
            rivals = self._rungs.setdefault(task.fraction, [])
            hopeless = sum(dominates(other, cost) for other in rivals) >= _RIVALS
            rivals.append(cost)
            if not hopeless:
                stages = fractions(task.recipe)
                following = stages[stages.index(task.fraction) + 1]
                self._workers.submit(replace(task, fraction=following))
                self._progress(number)
                return
        asked, recipe = self._asked.pop(number), self._recipes.pop(number)
        self._keep(asked, recipe, replace(result, seconds=self._spent.pop(number)))

    def _keep(self, asked: Asked, recipe: dict[str, Any], result: Result) -> None:
        """Takes up what a trial gave.

        Raises:
            InputError: the first trials all failed.
        """
        pruned = not result.error and result.fraction < 1
        trial = Trial(asked.number, recipe, result, pruned)
        self._sampler.tell(asked, result)
        self._journal.add(trial.to_dict())
        self._trials.append(trial)
        if not result.error:
            self._results[_key(recipe)] = result
        if len(self._trials) >= _FAILURES and all(one.result.error for one in self._trials):
            self._journal.remove()
            raise InputError(
                f"{self._request.model}: the first {_FAILURES} trials failed: {result.error}"
            )
        self._progress(asked.number)

    def _progress(self, number: int) -> None:
        best, _ = choose(self._trials, self._request.goal)
        shown = "none meets the limits yet"
        if best is not None:
            pairs = zip(self._request.goal.objectives, best.result.values, strict=True)
            shown = "best so far: " + ", ".join(f"{each.name} {value:g}" for each, value in pairs)
        done = len(self._trials)
        self._say(f"trial {number + 1}, {done} of {self._request.trials} done; {shown}")


def _sampler(request: Request, journal: Journal, trials: Sequence[Trial]) -> Sampler:
    path = journal.folder / "optuna.log"
    found = open_sampler(request.goal, request.seed, request.trials, path, request.starts)
    if isinstance(found, Random):
        first = max((trial.number for trial in trials), default=-1) + 1
        return Random(request.seed, request.starts, first)
    return found


def _data(request: Request, folder: Path, say: Say) -> tuple[Path | None, Path]:
    """The CSVs for training and for measuring trials; a part of one where only that is given."""
    if request.validation is not None:
        return request.train, request.validation
    assert request.train is not None
    if not _trains(request.space):
        return request.train, request.train  # no trial has seen the samples
    train, validation = folder / "train.csv", folder / "validation.csv"
    if not (train.is_file() and validation.is_file()):
        from modelcut.data.split import split
        from modelcut.job.evaluate import open_evaluator

        say("setting validation samples aside")
        recipe = request.space.at({})
        with registry.open_model(request.model) as model:
            table = open_evaluator(
                recipe,
                request.train,
                request.model,
                model,
                request.trust,
                beside=False,
                compared=True,
            ).table
        drafts = [path.with_suffix(".part") for path in (train, validation)]
        split(table, request.fraction, request.seed, *drafts)
        for draft, path in zip(drafts, (train, validation), strict=True):
            draft.replace(path)
    return train, validation


def _trains(space: Space) -> bool:
    """Whether any recipe of the space has steps that see training samples."""

    def look(value: Any) -> bool:
        if isinstance(value, dict):
            return "finetune" in value or "budget" in value or any(map(look, value.values()))
        return isinstance(value, list) and any(map(look, value))

    return look(space.document.data)


def _made(
    request: Request, setting: Setting, recipe: Recipe, facts: Mapping[str, Any], say: Say
) -> Report:
    """Runs the chosen recipe on all training data, as `modelcut run` does, and tests it."""
    job = setting.job(recipe, request.output, request.test)
    gates = recipe.head.gates
    if request.test is None and gates.needing_data():
        # Nothing measures them; they held on the validation samples.
        kept = gates.model_copy(update=dict.fromkeys(gates.needing_data()))
        recipe = replace(recipe, head=recipe.head.model_copy(update={"gates": kept}))
    job = replace(
        job,
        recipe=recipe,
        train=request.train,
        force=request.force,
        report=True,
        search=facts,
        keep_on_failure=False,
    )
    report = pipeline.run(job, say)
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


def _samples(trials: Sequence[Trial]) -> int:
    return max((trial.result.measured.get("samples", 0) for trial in trials), default=0)


def _warnings(request: Request, trials: Sequence[Trial], chosen: Trial, *, sure: bool) -> list[str]:
    """What a user should know of the choice."""
    found = []
    samples = _samples(trials)
    drop = request.goal.gates.max_accuracy_drop
    if isinstance(drop, float) and samples and drop * samples < 1:
        found.append(
            f"{samples} validation samples cannot tell a drop of {drop:g}: one sample is "
            f"{1 / samples:.2g}"
        )
    if not sure:
        found.append(
            f"trial {chosen.number + 1} meets the limits on the validation samples, but not with "
            f"{request.goal.confidence:.0%} confidence on others: more samples, or a larger limit"
        )
    failed = [trial for trial in trials if trial.result.error]
    if failed:
        found.append(
            f"{len(failed)} of {len(trials)} trials failed; the first: {failed[0].result.error}"
        )
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
        ]
    )
    found["seed"] = str(request.seed)
    return {name: digests.of_text(text) for name, text in found.items()}


def _key(recipe: Mapping[str, Any]) -> str:
    return json.dumps(recipe, sort_keys=True)
