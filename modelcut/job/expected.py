"""What a network's first layers expect of the features, and whether the samples are like that.

`Rescaling` and `Normalization` layers say in the file what range or distribution the network was
trained on: samples that were scaled once more on their way, or not at all, are noticed there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelcut.graph.keras.calls import (
    Entry,
    calls,
    config_of,
    ends,
    is_functional,
    layer_list,
    name_of,
)
from modelcut.model.model import Model
from modelcut.safety import printable

_KEEPS = frozenset(
    "InputLayer Reshape Flatten Permute Dropout Identity GaussianNoise RandomFlip RandomRotation "
    "RandomTranslation RandomZoom RandomCrop CenterCrop Resizing Activation".split()
)
"""Layers that give values like those that they get."""
_NARROW = 1 / 50
_WIDE = 1.5
_FAR = 5.0
_FLAT = 1 / 20
_FEW = 20


@dataclass(frozen=True)
class Expected:
    """What one layer at an input expects.

    Attributes:
        index: number of the input.
        layer: name of the layer.
        scale, offset: of a `Rescaling`, numbers; of a `Normalization` None.
        mean, variance: of a `Normalization`, by feature; of a `Rescaling` None.
        axes: the axes of a sample that mean and variance are along.
    """

    index: int
    layer: str
    scale: float | None = None
    offset: float = 0.0
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None
    axes: tuple[int, ...] = ()


def expectations(model: Model) -> list[Expected]:
    """What the layers that a model's inputs go into first expect; [] where nothing tells."""
    if model.architecture is None:
        return []
    root = model.architecture.root
    weights = {layer.path: layer for layer in model.layers}
    found = []
    for index, path, entry in _first(root, (), None):
        config = config_of(entry)
        if entry.get("class_name") == "Rescaling":
            scale, offset = config.get("scale"), config.get("offset", 0.0)
            if _is_number(scale) and _is_number(offset) and scale:
                found.append(Expected(index, "/".join(path), float(scale), float(offset)))
            continue
        values = [config.get("mean"), config.get("variance")]
        layer = weights.get(path)
        if values[0] is None and layer is not None:
            roles = layer.by_role
            if not {"mean", "variance"} <= set(roles) or config.get("invert"):
                continue
            values = [roles[name].pull()[0] for name in ("mean", "variance")]
        try:
            mean, variance = (np.atleast_1d(np.asarray(v, np.float64)) for v in values)
        except (TypeError, ValueError):
            continue
        axis = config.get("axis", -1)
        axes = tuple(axis) if isinstance(axis, (list, tuple)) else () if axis is None else (axis,)
        if all(isinstance(each, int) and each for each in axes) and mean.shape == variance.shape:
            found.append(
                Expected(index, "/".join(path), None, 0.0, mean.ravel(), variance.ravel(), axes)
            )
    return found


def _first(
    model: Entry, path: tuple[str, ...], fed: Sequence[int | None] | None
) -> Iterator[tuple[int, tuple[str, ...], Entry]]:
    """The layers that get an input as it is, with its number; `fed`: which inputs go in."""
    entries = [entry for entry in layer_list(model) or [] if isinstance(entry, Mapping)]
    whole = is_functional(model)
    inputs = [ref.name for ref in ends(config_of(model).get("input_layers"))] if whole else []
    given = list(range(max(1, len(inputs)))) if fed is None else list(fed)
    origin: dict[str, int | None] = dict(zip(inputs, given, strict=False))
    current = None if whole else (given or [None])[0]
    for entry in entries:
        name, kind = name_of(entry), entry.get("class_name")
        if whole and name not in origin:
            refs = next(iter(calls(entry)), [])
            sources = [origin.get(ref.name) for ref in refs]
        else:
            sources = [origin[name] if whole else current]
        below = layer_list(entry) is not None
        here = sources[0] if len(sources) == 1 else None
        if below and any(source is not None for source in sources):
            yield from _first(entry, (*path, name), sources)
        elif kind in ("Rescaling", "Normalization") and here is not None:
            yield here, (*path, name), entry
        activation = config_of(entry).get("activation", "linear")
        kept = kind in _KEEPS and not below and activation == "linear"
        origin[name] = current = here if kept else None


class Seen:
    """What the samples are like at the inputs that something is expected of."""

    def __init__(self, expected: Sequence[Expected]) -> None:
        """Nothing is seen yet."""
        self._expected = tuple(expected)
        self._range = {each.index: (np.inf, -np.inf) for each in expected}
        self._sums: dict[int, tuple[np.ndarray, int]] = {}
        self._rows = 0

    def look(self, inputs: Sequence[np.ndarray]) -> None:
        """Takes a batch: an array for each input, (rows, …)."""
        self._rows += len(inputs[0])
        for index, (low, high) in self._range.items():
            if index < len(inputs) and inputs[index].dtype.kind in "fiu" and inputs[index].size:
                values = inputs[index]
                self._range[index] = min(low, float(values.min())), max(high, float(values.max()))
        for number, each in enumerate(self._expected):
            if each.mean is None or each.index >= len(inputs):
                continue
            values = inputs[each.index]
            kept = {axis % values.ndim for axis in each.axes}
            others = tuple(axis for axis in range(values.ndim) if axis not in kept)
            if values.dtype.kind not in "fiu":
                continue
            wide = values.astype(np.float64)
            sums = np.array(
                [wide.sum(axis=others).ravel(), np.square(wide).sum(axis=others).ravel()]
            )
            count = values.size // max(1, sums.shape[1])
            before = self._sums.get(number, (np.zeros_like(sums), 0))
            self._sums[number] = (before[0] + sums, before[1] + count)

    def warnings(self) -> list[str]:
        """Where the samples are not like what is expected."""
        lines = []
        for number, each in enumerate(self._expected):
            line = self._scaled(each) if each.scale is not None else self._spread(each, number)
            lines += [line] if line else []
        return lines

    def _scaled(self, each: Expected) -> str:
        low, high = self._range[each.index]
        assert each.scale is not None
        if not low < high:
            return ""
        ends = sorted((low * each.scale + each.offset, high * each.scale + each.offset))
        wanted = sorted(((-1 if each.offset else 0) - each.offset, 1 - each.offset))
        expects = sorted(end / each.scale for end in wanted)
        told = (
            f"the layer {printable(each.layer, 60)!r} rescales features of about {expects[0]:g} to "
            f"{expects[1]:g} by itself, and gets {low:.4g} to {high:.4g}"
        )
        if ends[1] - ends[0] < _NARROW:
            return f"{told}: are they scaled twice (--scale)?"
        if max(-ends[0], ends[1]) > _WIDE:
            return f"{told}: are they scaled as in training (--scale)?"
        return ""

    def _spread(self, each: Expected, number: int) -> str:
        found = self._sums.get(number)
        if found is None or self._rows < _FEW:
            return ""
        assert each.mean is not None
        assert each.variance is not None
        sums, count = found
        mean = sums[0] / count
        spread = np.sqrt(np.maximum(0, sums[1] / count - np.square(mean)))
        if each.mean.size not in (1, mean.size):
            return ""
        wanted = np.broadcast_to(each.mean, mean.shape)
        scale = np.sqrt(np.broadcast_to(each.variance, mean.shape))
        varies = scale > 1e-6
        if not varies.any():
            return ""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            away = np.where(varies, np.abs(mean - wanted) / scale, 0)
            width = np.where(varies, spread / scale, 1)
        far, flat = away > _FAR, width < _FLAT
        if far.any():
            worst = int(np.argmax(away))
            what = f"{int(far.sum())} of {mean.size} features are on average more than {_FAR:g} "
            what += "standard deviations from the mean that it was adapted to"
        elif flat.sum() > varies.sum() / 2:
            worst = int(np.argmin(np.where(varies, width, np.inf)))
            what = f"{int(flat.sum())} of {mean.size} features hardly vary"
        else:
            return ""
        return (
            f"the layer {printable(each.layer, 60)!r} normalizes by itself: {what} (feature "
            f"{worst}: {mean[worst]:.4g} ± {spread[worst]:.4g}, and it expects {wanted[worst]:.4g} "
            f"± {scale[worst]:.4g}): are they scaled twice, or not at all (--scale, --mean, --std)?"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
