"""How much each layer alone suffers under each setting of a step."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelcut.budget.bench import Bench, Measured
from modelcut.metrics.limits import Limits
from modelcut.model.model import Layer, Model
from modelcut.steps.base import Context, Outcome
from modelcut.steps.select import matches
from modelcut.steps.strength import Budgeted

Settings = Mapping[str, float | None]
"""Layer name -> setting; None: the layer is left alone."""


@dataclass(frozen=True)
class Trial:
    """One variant that was measured.

    Attributes:
        settings: setting of each layer that is changed, by name.
        measured: the measurement with these settings.
        held: whether all limits are met; None where there are none.
        changed: whether the step does anything with these settings.
    """

    settings: Mapping[str, float]
    measured: Measured
    held: bool | None = None
    changed: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        held = {} if self.held is None else {"held": self.held}
        found = {**self.measured.to_dict(), **held, "changed": self.changed}
        return {"settings": dict(self.settings), **found}


@dataclass
class Trier:
    """Tries settings of one step on one model, and remembers what was tried.

    Attributes:
        step: the step whose field `strength.name` is varied.
        model: the model as the step receives it.
        bench: measures variants of its base, `model`.
        context: the context that the step is applied with.
        limits: the limits to meet; None: none.
        trials: all trials so far, in the order in which they were made.
        skipped: tensor -> why the step is not aimed at it.
        unmoved: tensor -> why the step did nothing to it when it was tried.
        layers: the layers whose settings are searched.
        pinned: those that the step's overrides give a strength of their own.
    """

    step: Budgeted
    model: Model
    bench: Bench
    context: Context
    limits: Limits | None = None
    trials: list[Trial] = field(default_factory=list)
    unmoved: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known: dict[Any, Trial] = {}
        chosen, self.skipped = self.step.select(self.model, self.context)
        names = {tensor.name for tensor in chosen}
        self.layers: list[Layer] = []
        self.pinned: list[Layer] = []
        for layer in self.model.layers:
            mine = [tensor for tensor in layer.tensors if tensor.name in names]
            if mine:
                free = any(self._is_free(layer, tensor) for tensor in mine)
                (self.layers if free else self.pinned).append(layer)

    def _is_free(self, layer: Layer, tensor: Any) -> bool:
        """Whether no override gives the tensor a strength of its own."""
        ways = {*self.step.strength.ways}
        return not any(
            ways & set(fields) and matches(pattern, layer, tensor)
            for pattern, fields in self.step.overrides.items()
        )

    def plain(self, settings: Settings, *, pinned: bool = True) -> Budgeted | None:
        """The step with numbers: each layer its own; None where no layer has any.

        Args:
            settings: the setting of each layer that is searched, by name.
            pinned: keep the layers that the step's overrides give a strength; else leave them out.
        """
        given = {layer.name: settings.get(layer.name) for layer in self.layers}
        used = {name: value for name, value in given.items() if value is not None}
        if not used and not (pinned and self.pinned):
            return None
        counts = Counter(used.values())
        most = counts.most_common(1)[0][0] if counts else self.step.ladder[0]
        own = {
            self._pattern(layer): {self.step.strength.name: used[layer.name]}
            # A nested layer after its namesakes outside, for later patterns win.
            for layer in sorted(self.layers, key=lambda layer: len(layer.path))
            if layer.name in used and used[layer.name] != most
        }
        alone = [layer for layer in self.layers if layer.name not in used]
        alone += [] if pinned else self.pinned
        exclude = [*self.step.exclude, *(self._pattern(layer) for layer in alone)]
        fields = {"exclude": exclude} if exclude else {}
        overrides = {**self.step.overrides, **own}
        return self.step.with_strength(
            most, **fields, **({"overrides": overrides} if overrides else {})
        )

    def _pattern(self, layer: Layer) -> str:
        """A pattern that names this layer only."""
        name = glob.escape(layer.name)
        odd = ":" in name or any(o is not layer and matches(name, o) for o in self.model.layers)
        return f"path:{name}" if odd else name

    def measure(self, settings: Settings, *, pinned: bool = True) -> Trial:
        """Applies the step with these settings and measures the result; once for the same."""
        used = {name: value for name, value in settings.items() if value is not None}
        key = (pinned, *sorted(used.items()))
        if key not in self._known:
            step = self.plain(settings, pinned=pinned)
            outcome = step.apply(self.model, self.context) if step else Outcome(self.model)
            before = set(map(id, self.model.tensors))
            changed = any(id(tensor) not in before for tensor in outcome.model.tensors)
            measured = self.bench.measure(outcome.model)
            held = measured.judge(self.limits) if self.limits else None
            trial = Trial(used, measured, held, changed)
            if not changed and len(used) == 1:
                self._note(next(iter(used)), outcome)
            self.trials.append(trial)
            self._known[key] = trial
        return self._known[key]

    def _note(self, layer: str, outcome: Outcome) -> None:
        """Why a layer was left alone though it was to be tried."""
        tensors = next(each for each in self.layers if each.name == layer).tensors
        for tensor in tensors:
            if tensor.name in outcome.skipped and tensor.name not in self.skipped:
                self.unmoved[tensor.name] = outcome.skipped[tensor.name]


def profile(
    trier: Trier, *, stop: bool = False, say: Callable[[str], None] = lambda _: None
) -> dict[str, list[Trial]]:
    """Tries each layer alone under each setting, from the weakest to the strongest.

    Args:
        trier: tries the step on the model.
        stop: leave out what is stronger than the first setting that breaks the limits.
        say: takes a line about progress.

    Returns:
        Layer name -> its trials, in the order of the ladder; without the layers to which no
        setting does anything.
    """
    found: dict[str, list[Trial]] = {}
    ladder = trier.step.ladder
    for number, layer in enumerate(trier.layers):
        found[layer.name] = []
        for place, setting in enumerate(ladder):
            share = (number * len(ladder) + place) / (len(trier.layers) * len(ladder))
            field_name = trier.step.strength.name
            say(f"{trier.step.title}: {share:.0%}, {layer.name} alone at {field_name} {setting:g}")
            trial = trier.measure({layer.name: setting}, pinned=False)
            found[layer.name].append(trial)
            if stop and trial.held is False:
                break
        if not any(trial.changed for trial in found[layer.name]):
            del found[layer.name]
    return found
