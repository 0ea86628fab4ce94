"""Recipes with open choices: what `modelcut search` may vary.

Wherever a value may stand, `{choose: [4, 5, 6]}` or `{range: [0.5, 0.98]}` may stand in its place;
a step may be `{maybe: {prune: magnitude, …}}` or `{choose: [{…}, {…}]}`. A space is filled by
asking for each open value in turn; those within a step that is not chosen are never asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from modelcut.errors import RecipeError
from modelcut.recipe.recipe import Recipe, is_open, parse
from modelcut.recipe.yaml_text import Document

Path: TypeAlias = "tuple[str | int, ...]"

_MOST_TRIED = 10_000
"""Options times steps: each option is tried in a recipe of as many steps before a search begins."""


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Attributes:
        values: the values, plain data of any kind; at least one.
    """

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """The indices of all values."""
        return tuple(range(len(self.values)))


@dataclass(frozen=True)
class Range:
    """A number between two others, both included.

    Attributes:
        low: the smallest.
        high: the largest.
        log: whether it is the logarithm that is distributed evenly.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only integers are meant: both ends are written as integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> tuple[Any, ...]:
        """Both ends."""
        return (self.low, self.high)


Parameter: TypeAlias = "Choice | Range"
Ask: TypeAlias = "Callable[[str, Parameter], Any]"
"""Gives the value of a parameter: a number in a range, or the index of a choice."""


@dataclass(frozen=True)
class Space:
    """A recipe in which some values are open.

    Attributes:
        document: the recipe as it was read.
        parameters: the open values by their path, such as `steps.0.sparsity`.
    """

    document: Document
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Document) -> Space:
        """Finds the open values of a document.

        Raises:
            RecipeError: a choice or a range is not one, with its place.
        """
        found: dict[str, Parameter] = {}
        for path, value in _walk(document.data, ()):
            if (parameter := _parameter(value, path, document)) is not None:
                found[_name(path)] = parameter
        return cls(document, found)

    def fill(self, ask: Ask) -> Recipe:
        """The recipe in which each open value is what `ask` gives for it.

        Raises:
            RecipeError: the values make no valid recipe.
        """
        places: dict[Path, tuple[int, int]] = {}
        data = self._filled(self.document.data, (), (), ask, places)
        return parse(Document(self.document.name, data, places))

    def at(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe at given values; a value that is not given is the first of its parameter."""
        return self.fill(lambda name, parameter: values.get(name, parameter.ends()[0]))

    def locate(self, data: Mapping[str, Any]) -> dict[str, Any] | None:
        """The values at which the space is this recipe, or None where it never is.

        Args:
            data: a recipe as plain data, each field as the space writes it.
        """
        return self._located(self.document.data, (), data)

    def check(self) -> None:
        """Tries each end of each range and each choice, the others being at their first values.

        Raises:
            RecipeError: one of them makes no valid recipe, or there are too many.
        """
        steps = self.document.data.get("steps") if isinstance(self.document.data, dict) else None
        ends = sum(len(parameter.ends()) for parameter in self.parameters.values())
        if ends * max(1, len(steps) if isinstance(steps, list) else 1) > _MOST_TRIED:
            raise RecipeError(
                f"{self.document.name}: {ends:,} options in {len(steps or ()):,} steps are more "
                f"than a search can go through",
                f"options times steps: at most {_MOST_TRIED:,}",
            )
        first = {name: parameter.ends()[0] for name, parameter in self.parameters.items()}
        self.at(first)
        for name, parameter in self.parameters.items():
            # A step that is left out would hide what is wrong in it.
            outer = {
                other: index
                for other, chosen in self.parameters.items()
                if isinstance(chosen, Choice)
                for index in chosen.ends()
                if name.startswith(f"{other}.{index}.")
            }
            for end in parameter.ends():
                self.at({**first, **outer, name: end})

    def _located(self, value: Any, path: Path, wanted: Any) -> dict[str, Any] | None:
        """The values at which a part of the document is `wanted`."""
        parameter = self.parameters.get(_name(path))
        if isinstance(parameter, Range):
            inside = type(wanted) in (int, float) and parameter.low <= wanted <= parameter.high
            return {_name(path): wanted} if inside else None
        if isinstance(parameter, Choice):
            for index, option in enumerate(parameter.values):
                found = self._located(option, (*path, index), wanted)
                if found is not None:
                    return {_name(path): index, **found}
            return None
        pairs: list[tuple[str | int, Any, Any]] = []
        if isinstance(value, dict) and isinstance(wanted, Mapping):
            if set(value) != set(wanted):
                return None
            pairs = [(key, item, wanted[key]) for key, item in value.items()]
        elif isinstance(value, list) and isinstance(wanted, list):
            return self._located_items(value, path, wanted)
        elif value is not wanted and (type(value) is not type(wanted) or value != wanted):
            return None
        found = {}
        for key, item, other in pairs:
            part = self._located(item, (*path, key), other)
            if part is None:
                return None
            found |= part
        return found

    def _located_items(
        self, items: list[Any], path: Path, wanted: list[Any], at: int = 0
    ) -> dict[str, Any] | None:
        """As `_located`, for a list from its item `at` on: what may be left out need not be there.

        The first way is taken; a list that is wanted is never long.
        """
        if at == len(items):
            return None if wanted else {}
        here = (*path, at)
        if wanted:
            first = self._located(items[at], here, wanted[0])
            if first is not None:
                rest = self._located_items(items, path, wanted[1:], at + 1)
                if rest is not None:
                    return {**first, **rest}
        if is_open(items[at], "maybe"):
            rest = self._located_items(items, path, wanted, at + 1)
            if rest is not None:
                return {_name(here): 0, **rest}
        return None

    def _filled(
        self, value: Any, path: Path, made: Path, ask: Ask, places: dict[Path, tuple[int, int]]
    ) -> Any:
        """A value with what is open in it decided.

        Args:
            value: plain data.
            path: where it stands in the document.
            made: where it will stand in the recipe.
            ask: gives the values.
            places: takes up where the recipe's values stand in the file.
        """
        if path in self.document.places:
            places[made] = self.document.places[path]
        parameter = self.parameters.get(_name(path))
        if isinstance(parameter, Range):
            return ask(_name(path), parameter)
        if isinstance(parameter, Choice):
            index = int(ask(_name(path), parameter))
            return self._filled(parameter.values[index], (*path, index), made, ask, places)
        if isinstance(value, dict):
            return {
                key: self._filled(item, (*path, key), (*made, key), ask, places)
                for key, item in value.items()
            }
        if isinstance(value, list):
            found: list[Any] = []
            for index, item in enumerate(value):
                one = self._filled(item, (*path, index), (*made, len(found)), ask, places)
                if one is not _LEFT_OUT:
                    found.append(one)
            return found
        return value


class _LeftOut:
    """Stands for a step that is not taken."""


_LEFT_OUT = _LeftOut()


def _walk(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """All values, those within options too, by the path that `_filled` gives them."""
    yield path, value
    if is_open(value, "choose") and isinstance(value["choose"], list):
        for index, item in enumerate(value["choose"]):
            yield from _walk(item, (*path, index))
    elif is_open(value, "maybe"):
        yield from _walk(value["maybe"], (*path, 1))  # 0: it is left out
    elif isinstance(value, dict) and not is_open(value, "range"):
        for key, item in value.items():
            yield from _walk(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, (*path, index))


def _parameter(value: Any, path: Path, document: Document) -> Parameter | None:
    """What is open in a value, if it is.

    Raises:
        RecipeError: it is written wrongly.
    """
    where = document.where(path)
    if is_open(value, "maybe"):
        if len(path) != 2 or path[0] != "steps":
            raise RecipeError(f"{where}: 'maybe' stands before a whole step", "such as - maybe: …")
        return Choice((_LEFT_OUT, value["maybe"]))
    if is_open(value, "choose"):
        options = value["choose"]
        if not isinstance(options, list) or not options:
            raise RecipeError(f"{where}: choose takes a list of values", "such as [4, 5, 6]")
        return Choice(tuple(options))
    if is_open(value, "range"):
        ends, log = value["range"], value.get("log", False)
        numbers = isinstance(ends, list) and len(ends) == 2
        numbers = numbers and all(type(end) in (int, float) for end in ends)
        if not numbers or not all(map(math.isfinite, ends)) or ends[0] > ends[1]:
            raise RecipeError(
                f"{where}: range takes the smallest and the largest number", "such as [0.5, 0.98]"
            )
        if not isinstance(log, bool) or (log and ends[0] <= 0):
            raise RecipeError(f"{where}: log: true or false, and only for numbers above 0")
        return Range(ends[0], ends[1], log)
    return None


def _name(path: Path) -> str:
    return ".".join(map(str, path))
