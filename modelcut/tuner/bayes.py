"""Optuna's samplers: a tree-structured Parzen estimator, and NSGA-II for long searches of a front.

TPE: Bergstra et al. 2011, section 4; for several objectives Ozaki et al. 2020. NSGA-II: Deb et al.
2002. Limits go to the samplers as constraints.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from modelcut.recipe.space import Choice, Parameter
from modelcut.tuner.goal import Goal
from modelcut.tuner.trial import Result

_EVOLUTION = 200
"""With this many trials a front is searched by NSGA-II."""


class Suggested:
    """See `sampler.Asked`."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.number = trial.number

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
    """See `sampler.Sampler`."""

    def __init__(
        self,
        goal: Goal,
        seed: int,
        trials: int,
        journal: Path | None,
    ) -> None:
        """Opens the study, or the one that a journal holds.

        Args:
            goal: the objectives.
            seed: seed of the choice.
            trials: number of trials that are planned.
            journal: file in which the study is kept; None: in memory.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.name = f"Optuna {optuna.__version__}"
        storage = None
        if journal is not None:
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend

            storage = JournalStorage(JournalFileBackend(str(journal)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # multivariate
            self._study = optuna.create_study(
                study_name="modelcut",
                storage=storage,
                directions=["minimize"] * len(goal.objectives),
                load_if_exists=True,
            )
            # The same study is not asked for the same points again.
            seed += len(self._study.trials)
            if len(goal.objectives) > 1 and trials >= _EVOLUTION:
                self.name += ", NSGA-II"
                self._study.sampler = optuna.samplers.NSGAIISampler(seed=seed)
            else:
                self.name += ", TPE"
                self._study.sampler = optuna.samplers.TPESampler(
                    seed=seed,
                    n_startup_trials=min(10, max(4, trials // 8)),
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                )
        self._goal = goal
        for trial in self._study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def ask(self, given: Mapping[str, Any] | None = None) -> Suggested:
        if given is not None:
            self._study.enqueue_trial(dict(given))
        return Suggested(self._study.ask())

    def tell(self, asked: Any, result: Result) -> None:
        state = optuna.trial.TrialState
        failed = bool(result.error) or any(abs(value) == float("inf") for value in result.values)
        if failed:
            self._study.tell(asked.number, state=state.FAIL)
            return
        # A trial that was given up says something, too: its excess is an upper bound.
        asked.trial.set_constraint("limits", min(result.doubt, 1e9))
        self._study.tell(asked.number, self._goal.costs(result.values))
