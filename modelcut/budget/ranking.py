"""Which layers carry the loss: what a sensitivity profile comes down to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

_MOST = 0.8
"""The layers that are named carry this fraction of the loss."""
_SMALL = 0.005
"""A setting is considered if the middle layer alone loses no more than this."""


@dataclass(frozen=True)
class Ranking:
    """The layers by what they lose, at the strongest setting that most of them bear.

    Attributes:
        measure: what is compared: the increase of `log_loss` or `rmse`, or `shift` of the outputs.
        setting: the setting at which the layers are compared.
        losses: layer -> its loss when it alone is at this setting, the largest first.
        carrying: the first of these layers, which carry most of the sum.
        fraction: which fraction of the sum they carry.
        overrides: layer -> the strongest setting at which it loses no more than the middle layer;
            None: it should be left out of the step.
    """

    measure: str
    setting: float
    losses: Mapping[str, float]
    carrying: tuple[str, ...]
    fraction: float
    overrides: Mapping[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "measure": self.measure,
            "setting": self.setting,
            "losses": dict(self.losses),
            "carrying": list(self.carrying),
            "fraction": self.fraction,
            "overrides": dict(self.overrides),
        }


def rank(
    base: Mapping[str, Any], settings: Sequence[float], layers: Mapping[str, Sequence[Any]]
) -> Ranking | None:
    """Ranks the layers of a profile.

    The log loss tells layers apart where the accuracy does not, such as where it is 1.0 for all.

    Args:
        base: the metrics of the model as it is, as `Measured.to_dict` gives them.
        settings: the settings, from the weakest to the strongest.
        layers: layer -> its trials in the order of the settings, as `Trial.to_dict` gives them.

    Returns:
        None where there are no layers.
    """
    if not layers:
        return None
    measure = next((name for name in ("log_loss", "rmse") if base.get(name) is not None), "shift")
    start = 0.0 if measure == "shift" else float(base[measure])
    losses = {
        name: [_loss(trial, measure, start) for trial in trials] for name, trials in layers.items()
    }
    bearable = [
        place
        for place in range(len(settings))
        if median(_drop(trials[place], base) for trials in layers.values()) <= _SMALL
    ]
    place = bearable[-1] if bearable else 0
    here = dict(sorted(((n, each[place]) for n, each in losses.items()), key=lambda it: -it[1]))
    total = sum(here.values())
    carrying: list[str] = []
    carried = 0.0
    for name, loss in here.items():
        if loss <= 0 or (total > 0 and carried >= _MOST * total):
            break
        carrying.append(name)
        carried += loss
    if len(carrying) == len(here) > 1:
        carrying = []  # all alike: nothing is gained by treating some of them otherwise
    middle = median(here.values())
    overrides = {
        name: next(
            (settings[at] for at in reversed(range(place)) if losses[name][at] <= middle), None
        )
        for name in carrying
    }
    fraction = sum(here[name] for name in carrying) / total if total > 0 else 0.0
    return Ranking(measure, settings[place], here, tuple(carrying), fraction, overrides)


def _loss(trial: Mapping[str, Any], measure: str, start: float) -> float:
    found = trial.get(measure)
    return max(0.0, float("inf") if found is None else float(found) - start)


def _drop(trial: Mapping[str, Any], base: Mapping[str, Any]) -> float:
    """The loss of accuracy, or else the relative one of the error."""
    if base.get("accuracy") is not None:
        return float(base["accuracy"]) - float(trial["accuracy"])
    if base.get("rmse"):
        return float(trial["rmse"]) / float(base["rmse"]) - 1
    return float(trial.get("shift") or 0.0)
