"""Optuna's samplers: a tree-structured Parzen estimator, and NSGA-II for long searches of a front.

TPE: Bergstra et al. 2011, section 4; for several objectives Ozaki et al. 2020. NSGA-II: Deb et al.
2002. Limits go to the samplers as constraints.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from random import Random
from typing import Any

import optuna

from modelcut.recipe.space import Choice, Parameter
from modelcut.tuner.goal import Goal
from modelcut.tuner.trial import Result

_EVOLUTION = 200
"""With this many trials a front is searched by NSGA-II."""


class Suggested:
    """See `sampler.Asked`."""

    def __init__(self, number: int, trial: optuna.Trial) -> None:
        self.number = number
        self.trial = trial

    @property
    def point(self) -> dict[str, Any]:
        return dict(self.trial.params)

    def value(self, name: str, parameter: Parameter) -> Any:
        if isinstance(parameter, Choice):
            return self.trial.suggest_categorical(name, list(range(len(parameter.values))))
        if parameter.whole:
            return self.trial.suggest_int(
                name, int(parameter.low), int(parameter.high), log=parameter.log
            )
        found = self.trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
        return float(f"{found:.4g}")


class Bayes:
    """See `sampler.Sampler`.

    The study is in memory: of an interrupted search the journal has all that it is made of. Each
    point depends on the seed, its number and the trials before it, and on nothing else, so that a
    search which was interrupted goes on as it would have gone.
    """

    def __init__(self, goal: Goal, seed: int, trials: int) -> None:
        """Opens a study.

        Args:
            goal: the objectives.
            seed: seed of the choice.
            trials: number of trials that are planned.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(directions=["minimize"] * len(goal.objectives))
        self._evolves = len(goal.objectives) > 1 and trials >= _EVOLUTION
        kind = "NSGA-II" if self._evolves else "TPE"
        self.name = f"Optuna {optuna.__version__}, {kind}"
        self._seed, self._trials = seed, trials
        self._next = 0
        self._goal = goal

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = Random(f"{self._seed} {number}").getrandbits(32)
        if self._evolves:
            return optuna.samplers.NSGAIISampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # multivariate
            return optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=min(10, max(4, self._trials // 8)),
                multivariate=True,
                group=True,
                constant_liar=True,
            )

    def ask(self, given: Mapping[str, Any] | None = None, number: int | None = None) -> Suggested:
        if number is None:
            number = self._next
        self._next = max(self._next, number + 1)
        self._study.sampler = self._sampler(number)
        if given is not None:
            self._study.enqueue_trial(dict(given))
        return Suggested(number, self._study.ask())

    def tell(self, asked: Any, result: Result) -> None:
        state = optuna.trial.TrialState
        failed = bool(result.error) or any(abs(value) == float("inf") for value in result.values)
        if failed:
            self._study.tell(asked.trial, state=state.FAIL)
            return
        # A trial that was given up says something, too: its excess is an upper bound.
        asked.trial.set_constraint("limits", min(result.doubt, 1e9))
        self._study.tell(asked.trial, self._goal.costs(result.values))
