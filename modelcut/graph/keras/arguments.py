"""The arguments of a call, with tensors by number: of Keras 3's operations and tf_keras' TensorFlow
ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelcut.graph.keras.calls import config_of


@dataclass(frozen=True)
class Given:
    """A tensor among the arguments.

    Attributes:
        index: its number among all tensors of the call, in the order of `calls.calls`.
    """

    index: int


@dataclass(frozen=True)
class Odd:
    """An argument whose meaning is not known."""


@dataclass(frozen=True)
class Arguments:
    """What a function is called with.

    Attributes:
        args: by place: numbers, texts, lists, dicts and `Given`.
        kwargs: by name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def of_call(call: Any) -> Arguments:
    """The arguments of a call, as a file of Keras 3 or tf_keras has it."""
    counter = _Counter()
    if isinstance(call, dict):
        args = call.get("args")
        kwargs = call.get("kwargs")
        found = tuple(counter.modern(item) for item in args) if isinstance(args, list) else ()
        named = kwargs if isinstance(kwargs, dict) else {}
        return Arguments(found, {key: counter.modern(named[key]) for key in sorted(named)})
    first = counter.old(call)
    leaf = call
    while isinstance(leaf, list) and leaf and not _is_leaf(leaf):
        leaf = leaf[-1]
    kwargs = leaf[3] if _is_leaf(leaf) and len(leaf) == 4 else {}
    named = kwargs if isinstance(kwargs, dict) else {}
    return Arguments((first,), {key: counter.old(value) for key, value in named.items()})


def _is_leaf(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and isinstance(value[1], int)
    )


class _Counter:
    def __init__(self) -> None:
        self._seen = 0

    def _next(self) -> Given:
        self._seen += 1
        return Given(self._seen - 1)

    def modern(self, item: Any) -> Any:
        """An argument of Keras 3."""
        if isinstance(item, list):
            return [self.modern(each) for each in item]
        if not isinstance(item, dict):
            return item
        config = config_of(item)
        history = config.get("keras_history")
        if isinstance(history, list) and len(history) == 3 and isinstance(history[0], str):
            return self._next()
        if item.get("class_name") == "__slice__":
            return slice(config.get("start"), config.get("stop"), config.get("step"))
        for key in sorted(item):
            self.modern(item[key])
        return Odd()

    def old(self, item: Any) -> Any:
        """An argument of tf_keras; a tensor is a list of its layer, call and index."""
        if _is_leaf(item):
            return item[2] if item[0] == "_CONSTANT_VALUE" else self._next()
        if isinstance(item, list):
            return [self.old(each) for each in item]
        if isinstance(item, dict):
            if item.keys() == {"start", "stop", "step"}:
                return slice(item["start"], item["stop"], item["step"])
            for key in sorted(item):
                self.old(item[key])
            return Odd()
        return item
