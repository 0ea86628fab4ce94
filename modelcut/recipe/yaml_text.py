"""YAML as it comes from strangers: bounded, without tags that run code, every value located.

PyYAML does the scanning; this module says what is let in, and remembers where it stood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from modelcut.errors import RecipeError

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_NODES = 50_000

Place = tuple[int, int]
"""Line and column, from 1."""

_TAGS = {
    f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null")
}


@dataclass(frozen=True)
class Document:
    """Plain data and the place of each of its values.

    Attributes:
        data: dicts, lists, strings, numbers, booleans.
        places: path of keys and indices -> where the value (of a dict's item: its key) stands.
    """

    name: str
    data: Any
    places: dict[tuple[str | int, ...], Place] = field(default_factory=dict)

    def where(self, path: tuple[str | int, ...]) -> str:
        """Such as "recipe.yaml:3:5", of the nearest value that the file really holds."""
        while path and path not in self.places:
            path = path[:-1]
        line, column = self.places.get(path, (1, 1))
        return f"{self.name}:{line}:{column}"


def load_file(path: Path) -> Document:
    """Reads a YAML file.

    Raises:
        RecipeError: it is not there, too large, not text, or not one plain YAML document.
    """
    try:
        if not path.is_file():
            raise RecipeError(
                f"{path}: no such file",
                "give the path of a recipe, or a built-in name: `modelcut recipe show`",
            )
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{path}: larger than 1 MiB", "a recipe is a short text")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start})") from None
    return loads(text, str(path))


def loads(text: str, name: str) -> Document:
    """Parses YAML text; see `load_file`."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text.encode()
    except UnicodeEncodeError:  # an argument that was no UTF-8
        raise RecipeError(f"{name}: not UTF-8 text") from None
    try:
        _bound(text, name, loader)
        node = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        what = " ".join(str(error.problem or error.context).split())
        raise RecipeError(f"{name}{place}: not valid YAML: {what}") from None
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
        raise RecipeError(f"{name}: not valid YAML: {what}") from None
    if node is None:
        raise RecipeError(f"{name}: empty", "`modelcut recipe show` prints an example")
    reader = _Reader(name, loader(""))
    return Document(name, reader.value(node, ()), reader.places)


def _bound(text: str, name: str, loader: Any) -> None:
    """Refuses what is too deep or too large before anything recursive sees it."""
    depth, documents = 0, 0
    for count, event in enumerate(yaml.parse(text, Loader=loader)):
        if isinstance(event, yaml.events.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.events.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.events.DocumentStartEvent):
            documents += 1
        mark = event.start_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        if depth > MAX_DEPTH:
            raise RecipeError(f"{place}: nested deeper than {MAX_DEPTH} levels")
        if count > MAX_NODES:
            raise RecipeError(f"{place}: more than {MAX_NODES} values")
        if documents > 1:
            raise RecipeError(f"{place}: a second document begins here", "one recipe a file")


_EXPONENT = re.compile(r"^[-+]?\d+[eE][-+]?\d+$", re.ASCII)


class _Reader:
    """Turns nodes into plain data, aliases counted as often as they are used."""

    def __init__(self, name: str, loader: Any) -> None:
        self.name = name
        self.places: dict[tuple[str | int, ...], Place] = {}
        self._loader = loader
        self._open: set[int] = set()
        self._count = 0

    def value(self, node: yaml.Node, path: tuple[str | int, ...]) -> Any:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self.places.setdefault(path, (line, column))
        place = f"{self.name}:{line}:{column}"
        self._count += 1
        if self._count > MAX_NODES:
            raise RecipeError(f"{place}: aliases expand to more than {MAX_NODES} values")
        if id(node) in self._open:
            raise RecipeError(f"{place}: an alias that contains itself")
        if node.tag not in _TAGS and node.tag != "tag:yaml.org,2002:timestamp":
            raise RecipeError(f"{place}: the tag {node.tag} is not allowed in a recipe")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode, place: str) -> Any:
        if node.tag == "tag:yaml.org,2002:null":
            raise RecipeError(f"{place}: no value here", "give one, or leave the key out")
        if node.tag == "tag:yaml.org,2002:timestamp" or len(node.value) > 4000:
            return node.value
        if not node.style and _EXPONENT.match(node.value):
            return float(node.value)  # text to YAML 1.1, a number to everyone else
        try:
            return self._loader.construct_object(node)
        except ValueError as error:
            raise RecipeError(f"{place}: {' '.join(str(error).split())}") from None

    def _mapping(self, node: yaml.Node, path: tuple[str | int, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
            place = f"{self.name}:{line}:{column}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{place}: a key must be a plain word")
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise RecipeError(f"{place}: merge keys (<<) are not allowed in a recipe")
            key = key_node.value
            if key in result:
                raise RecipeError(f"{place}: {key!r} is given twice")
            self.places[(*path, key)] = (line, column)
            result[key] = self.value(value_node, (*path, key))
        return result
