"""The loop of a search: asks for points, keeps the workers busy, gives up hopeless trials early."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from modelcut.errors import InputError, RecipeError
from modelcut.recipe.recipe import Recipe, parse
from modelcut.recipe.yaml_text import Document
from modelcut.tuner.choice import choose
from modelcut.tuner.goal import dominates
from modelcut.tuner.journal import Journal
from modelcut.tuner.ladder import Ladder, trials_for
from modelcut.tuner.near import longer, near
from modelcut.tuner.pace import Pace
from modelcut.tuner.record import Trial
from modelcut.tuner.request import Request
from modelcut.tuner.sampler import Asked, Sampler
from modelcut.tuner.trial import Result, fractions, scaled
from modelcut.tuner.workers import Task, Workers

_RIVALS = 3
"""A trial is given up when so many others of the same length of training are better in all."""
_LARGER = 1.05
"""A trial is given up whose file is so many times the best one's: training makes none smaller."""
_SMALLER, _LITTLE = 0.95, 0.5
"""A trial is trained longer that is so much smaller than the best one, and misses the limits by no
more than this part of them."""
_LONG = 2.0
"""Trainings that are so many times as long are long: a still longer last one overfits."""
_NEAR = 40
"""So many trials are done before a sampler chooses; there is little to learn from before."""
_TURNS = 20
"""Points that are drawn until one is new."""
_FAILURES = 5
"""The search ends when so many trials fail, and none succeeded before."""

Say = Callable[[str], None]


class Loop:
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
        self._factors: dict[int, float] = {}
        self._results: dict[str, Result] = {}
        self._rungs: dict[float, list[tuple[float, ...]]] = {}
        self._spent: dict[int, float] = {}
        first = request.first
        most = trials_for(len(first.ladder), first.trials, workers.count)
        self._ladder = Ladder(
            first.ladder,
            min(most, max(1, request.trials // 2)),
            bold=request.goal.bold,
            at_once=workers.count,
        )
        self._untrained = False
        self._rung_of: dict[int, int] = {}
        self._beside: set[int] = set()
        each = math.ceil(request.trials / workers.count)
        self._pace = Pace(request.seconds, each, open_=bool(first.ladder))
        self._ahead: dict[int, list[float]] = {}
        self._stages: dict[int, list[tuple[float, ...]]] = {}
        for trial in sorted(trials, key=lambda each: each.number):
            self._restore(trial)

    def run(self) -> None:
        while True:
            while len(self._asked) < self._workers.count and self._more():
                self._begin()
            if not (self._asked or self._begin_untrained()):
                return
            self._end(*self._workers.next())

    def _restore(self, trial: Trial) -> None:
        """Takes up a trial of an interrupted search, as if it had been done now."""
        asked = self._sampler.ask(trial.point, trial.number)
        with contextlib.suppress(RecipeError):
            if trial.point:
                self._request.space.fill(asked.value)
        self._sampler.tell(asked, trial.result)
        if not trial.result.error:
            self._results[_key(trial.recipe)] = trial.result
            if trial.result.fraction == 1 and trial.result.seconds:
                self._pace.took(trial.result.seconds, 0.0)
        for fraction, *cost in trial.stages:
            self._rungs.setdefault(fraction, []).append(tuple(cost))
        if trial.rung is not None:
            self._ladder.tell(trial.rung, holds=self._holds(trial.result))
            if self._request.seconds is not None and trial.factor != 1:
                self._pace.factor = trial.factor  # what its first run has learned

    def _more(self) -> bool:
        if len(self._trials) + len(self._asked) >= self._request.trials:
            return False
        return not self._late()

    def _late(self) -> bool:
        best, _ = choose(self._trials, self._request.goal)
        return self._pace.late(time.monotonic() - self._began, found=best is not None)

    def _ask(self) -> Asked:
        """The next point: a known one, one of the ladder, one near the best, or the sampler's."""
        begun = len(self._trials) + len(self._asked)
        known = self._request.first.known
        if begun < len(known):
            return self._sampler.ask(known[begun])
        found = self._ladder.next()
        if found is None:
            beside = self._near(begun)
            asked = self._sampler.ask(beside)
            if beside is not None:
                self._beside.add(asked.number)
            return asked
        rung, point = found
        asked = self._sampler.ask(point)
        self._rung_of[asked.number] = rung
        return asked

    def _near(self, begun: int) -> dict[str, Any] | None:
        """A point near the best one, until the sampler has seen enough of them.

        Of several objectives there is no best one: a front is the sampler's from the start.
        """
        if len(self._request.goal.objectives) > 1:
            return None
        if begun >= _NEAR:
            return None
        best, sure = choose(self._trials, self._request.goal)
        best = best if sure else None
        tried = [trial.point for trial in self._trials]
        tried += [asked.point for asked in self._asked.values()]
        parameters = self._request.space.parameters
        if (self._pace.factor or 1.0) < _LONG:
            again = longer(self._missed(best), tried, self._request.first.last, parameters)
            if again is not None:
                return again
        beyond = self._ladder.beyond(best.point) if best is not None and best.point else None
        if best is None or beyond is None:
            return None
        for turn in range(_TURNS):
            seed = [self._request.seed, begun, turn]
            point = near(best.point, beyond, parameters, seed)
            if point not in tried:
                return point
        return None

    def _missed(self, best: Trial | None) -> list[Mapping[str, Any]]:
        """Points whose files are smaller than the best one, and which missed the limits by little.

        What missed them by the least comes first, and before it what was passed over as lucky. What
        missed one that no training changes, such as on the multiply-accumulates, is left out.
        """
        goal = self._request.goal
        if not goal.by_size:
            return []
        fixed = {limit.name for limit in goal.gates.each() if not limit.trained}
        least = best.result.values[0] if best is not None else float("inf")
        found = [
            trial
            for trial in self._trials
            if trial.result.doubt <= _LITTLE
            and not trial.pruned
            and trial.result.values[0] < _SMALLER * least
            and all(gate["held"] or gate["name"] not in fixed for gate in trial.result.gates)
        ]
        return [trial.point for trial in sorted(found, key=lambda trial: trial.result.doubt)]

    def _begin(self) -> None:
        asked = self._ask()
        recipe = self._recipe(asked)
        if recipe is None:
            return
        known = self._results.get(_key(recipe))
        if known is not None and known.fraction == 1:
            self._keep(asked, recipe, replace(known, seconds=0.0), self._pace.factor or 1.0)
            return
        self._submit(asked, recipe, [*self._parts(asked.number, recipe), 1.0])

    def _submit(self, asked: Asked, recipe: dict[str, Any], stages: list[float]) -> None:
        self._asked[asked.number], self._recipes[asked.number] = asked, recipe
        self._factors[asked.number] = self._pace.factor or 1.0
        self._progress(asked.number)
        self._ahead[asked.number] = stages[1:]
        self._workers.submit(Task(asked.number, recipe, stages[0]))

    def _parts(self, number: int, recipe: Mapping[str, Any]) -> tuple[float, ...]:
        """Fractions of a training that are run before the whole of it."""
        if number in self._rung_of:
            # It decides where to go on from: a shorter training would not tell.
            return self._pace.probes(recipe)
        parts = fractions(recipe)
        if number in self._beside and self._request.goal.by_size:
            return ()  # hardly one of them is larger than the best, as the least would tell
        return parts[:1] if self._request.goal.by_size else parts

    def _recipe(self, asked: Asked) -> dict[str, Any] | None:
        """The recipe of a point; None where its values do not go together."""
        try:
            made = self._request.space.fill(asked.value)
        except RecipeError as error:
            self._keep(asked, {"steps": []}, Result(error=str(error)))
            return None
        return scaled(self._gated(made).to_dict(), self._pace.factor or 1.0)

    def _gated(self, made: Recipe) -> Recipe:
        """A recipe with the limits of the search."""
        head = made.head.model_copy(update={"gates": self._request.goal.gates})
        return replace(made, head=head)

    def _begin_untrained(self) -> bool:
        """Begins the trial that trains nothing, if no other one met the limits; once."""
        steps, found = self._request.first.untrained, choose(self._trials, self._request.goal)[0]
        if not steps or found is not None or self._untrained:
            return False
        self._untrained = True
        made = parse(Document("untrained", {"steps": list(steps)}))
        recipe = self._gated(replace(self._request.space.at({}), steps=made.steps)).to_dict()
        self._submit(self._sampler.ask({}), recipe, [1.0])
        return True

    def _end(self, task: Task, result: Result) -> None:
        number = task.number
        self._spent[number] = self._spent.get(number, 0.0) + result.seconds
        ahead = self._ahead[number]
        if not result.error and ahead and not self._ends_here(task, result):
            recipe = self._recipes[number]
            self._workers.submit(Task(number, recipe, ahead.pop(0)))
            self._progress(number)
            return
        del self._ahead[number]
        asked, recipe = self._asked.pop(number), self._recipes.pop(number)
        probed, spent = number in self._rung_of, self._spent.pop(number)
        factor = self._factors.pop(number)
        if not result.error and result.fraction == 1:
            # What the probes of the first one took, none takes again.
            took = result.seconds if probed else spent
            self._pace.took(took, time.monotonic() - self._began)
            if probed and self._might_hold(result, factor):
                self._ladder.forget(self._rung_of.pop(number))
        self._keep(asked, recipe, replace(result, seconds=spent), factor)

    def _ends_here(self, task: Task, result: Result) -> bool:
        """Whether a trial is given up after a fraction of its training."""
        if task.number not in self._rung_of:
            return self._hopeless(task, result)
        if self._pace.learn(task.recipe, task.fraction, result.seconds):
            self._factors[task.number] = self._pace.factor or 1.0
            self._recipes[task.number] = scaled(task.recipe, self._factors[task.number])
            self._ahead[task.number][:] = [1.0]
        return False

    def _hopeless(self, task: Task, result: Result) -> bool:
        """Whether nothing can come of a trial, by a fraction of its training."""
        best, sure = choose(self._trials, self._request.goal)
        if best is not None and self._late():
            return True
        goal = self._request.goal
        cost = (*goal.costs(result.values), result.excess)
        rivals = self._rungs.setdefault(task.fraction, [])
        beaten = sum(dominates(other, cost) for other in rivals) >= _RIVALS
        rivals.append(cost)
        self._stages.setdefault(task.number, []).append((task.fraction, *cost))
        if best is not None and sure and goal.by_size:
            (least,) = best.result.values
            beaten |= result.values[0] > _LARGER * least
        return beaten

    def _might_hold(self, result: Result, factor: float) -> bool:
        """Whether what failed was trained much shorter than the same point would be now."""
        bold = self._request.goal.bold
        return bold and not self._holds(result) and self._pace.longer(factor)

    @staticmethod
    def _holds(result: Result) -> bool:
        """Whether a bolder point may be tried after this one."""
        return result.sure and result.fraction == 1

    def _keep(
        self, asked: Asked, recipe: dict[str, Any], result: Result, factor: float = 1.0
    ) -> None:
        """Takes up what a trial gave, whose trainings were `factor` times their length.

        Raises:
            InputError: the first trials all failed.
        """
        pruned = not result.error and result.fraction < 1
        rung = self._rung_of.pop(asked.number, None)
        if rung is not None:
            self._ladder.tell(rung, holds=self._holds(result))
        stages = tuple(self._stages.pop(asked.number, ()))
        trial = Trial(asked.number, recipe, result, pruned, rung, asked.point, stages, factor)
        self._sampler.tell(asked, result)
        self._journal.add(trial)
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


def _key(recipe: Mapping[str, Any]) -> str:
    return json.dumps(recipe, sort_keys=True)
