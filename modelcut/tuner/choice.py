"""Which of the trials is chosen, and which are on the front.

Of many candidates that are measured on the same samples, one that is chosen for a low drop of
accuracy owes a part of it to these samples, and loses more on others (regression to the mean). Its
log loss tells how much: it hardly changes when a few samples cross the boundary of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, nan

import numpy as np

from modelcut.tuner.goal import Goal, dominates
from modelcut.tuner.record import Trial

_LEAST = 4
"""Fewer candidates give no line."""
_NEAREST = 6


def choose(trials: Sequence[Trial], goal: Goal) -> tuple[Trial | None, bool]:
    """The trial that is chosen, and whether its limits hold with the goal's confidence.

    Among those whose limits hold with that confidence, and would with the drop that is expected by
    their log loss; or else among those whose limits hold with that confidence, or else at all. Of
    these the one with the least cost; the earliest of equals.
    """
    fit = [trial for trial in trials if trial.result.feasible and not trial.pruned]
    fit.sort(key=lambda trial: (goal.costs(trial.result.values), trial.number))
    sure = [trial for trial in fit if trial.result.sure]
    lasting = (trial for trial in sure if _lasts(trial, trials, goal))
    found = next(lasting, sure[0] if sure else None)
    return found or (fit[0] if fit else None), found is not None


def passed_over(trials: Sequence[Trial], chosen: Trial, goal: Goal) -> list[dict[str, int | float]]:
    """Candidates that cost less than the chosen one, and whose limits seem to hold as surely.

    Returns:
        Of each, as plain JSON data, its number and the drop of accuracy that is expected by its
        log loss.
    """
    least = goal.costs(chosen.result.values)
    return [
        {"number": trial.number, "expected_drop": expected_drop(trial, trials)[0]}
        for trial in sorted(trials, key=lambda each: each.number)
        if trial.result.sure and not trial.pruned and goal.costs(trial.result.values) < least
    ]


def _lasts(trial: Trial, trials: Sequence[Trial], goal: Goal) -> bool:
    """Whether the limit on the drop of accuracy would hold with the drop that is expected."""
    limit, measured = goal.gates.max_accuracy_drop, trial.result.measured
    if goal.confidence <= 0.5 or not isinstance(limit, float) or "drop_error" not in measured:
        return True
    drop, part = expected_drop(trial, trials)
    margin = goal.errors(limit, measured["samples"], part) * measured["drop_error"]
    return drop + margin <= limit + 1e-9


def expected_drop(trial: Trial, trials: Sequence[Trial]) -> tuple[float, float]:
    """The drop of accuracy that a candidate is expected to have on other samples.

    The drops of the other candidates whose log losses are nearest are fitted by a line. Of the
    distance from it, only that part is the candidate's own by which distances are larger than those
    that drawing samples makes (empirical Bayes; Efron and Morris 1975, section 2).

    Args:
        trial: the candidate, whose drop was measured.
        trials: all of them.

    Returns:
        The drop as measured, or a higher one; and what part of the variance of the measured one it
        has.
    """
    drop, loss = _told(trial)
    others = [_told(each) for each in trials if each.number != trial.number and not each.pruned]
    points = [pair for pair in others if isfinite(sum(pair))]
    if not isfinite(loss) or len(points) < _LEAST:
        return drop, 1.0
    y, x = np.array(points).T
    x = x - loss
    near = np.argsort(np.abs(x), kind="stable")[: max(_NEAREST, len(points) // 2)]
    x, y = x[near], y[near]
    terms = np.stack([np.ones_like(x), x], axis=1)
    line = np.linalg.lstsq(terms, y, rcond=None)[0]
    spread = float(((y - terms @ line) ** 2).sum()) / (len(x) - 2)
    # What the original has by chance is in all drops alike: about half of their variance.
    chance = trial.result.measured["drop_error"] ** 2 / 2
    own = max(0.0, 1 - chance / spread) if spread > 0 else 0.0
    return max(drop, float(line[0] + own * (drop - line[0]))), (1 + own) / 2


def _told(trial: Trial) -> tuple[float, float]:
    """The drop of accuracy and the log loss; not a number where they were not measured."""
    drop, loss = (trial.result.measured.get(name) for name in ("accuracy_drop", "log_loss"))
    return nan if drop is None else float(drop), nan if loss is None else float(loss)


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
