"""YAML -> `Recipe`: an ordered list of steps, with the data and the gates.

Every error of a recipe is found at once, with file, line, column and field, and the nearest known
name for one that is not known.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, ValidationError

from modelcut import steps
from modelcut.data import DataOptions
from modelcut.errors import RecipeError
from modelcut.errors.explain import explain, near
from modelcut.errors.strict import Strict
from modelcut.metrics.each import AS_GIVEN, ONE_OR_EACH
from modelcut.metrics.each import schema as _schema
from modelcut.metrics.limits import Gates
from modelcut.recipe.export import ExportOptions
from modelcut.steps.base import Step

if TYPE_CHECKING:  # YAML is read for recipes only, not for flags
    from modelcut.recipe.yaml_text import Document

VERSION = 1

_KINDS = "auto|binary|multiclass|multilabel|regression"
Kind = Annotated[
    str,
    Field(pattern=f"^({_KINDS})$"),
    ONE_OR_EACH,
    AS_GIVEN,
    _schema({"type": "string", "enum": _KINDS.split("|")}),
]
Logits = Annotated[bool, ONE_OR_EACH, AS_GIVEN, _schema({"type": "boolean"})]


class Head(Strict):
    """What a recipe says besides its steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    version: int = Field(
        default=VERSION, ge=1, le=VERSION, description="Version of the recipe language."
    )
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="Seed of all random numbers.")
    task: Kind = Field(
        default="auto",
        description="Task of the outputs: auto (inferred from the model and the labels), binary, "
        "multiclass, multilabel or regression; or {output: task}.",
    )
    from_logits: Logits | None = Field(
        default=None,
        description="Whether the outputs of a classifier are logits or probabilities; or "
        "{output: true}; by default the file's last activation and loss decide.",
    )
    data: DataOptions = Field(default_factory=DataOptions, description="How CSV files are read.")
    gates: Gates = Field(default_factory=Gates, description="Conditions for exit code 0.")
    export: ExportOptions = Field(
        default_factory=ExportOptions, description="Conversion options of a .tflite output."
    )


@dataclass(frozen=True)
class Recipe:
    """An ordered list of steps, with the data, the evaluation and the gates.

    Attributes:
        steps: the steps, in the order in which they are applied.
        head: all settings besides the steps: data, task, gates, export, seed.
        name: the file, or the command that it stands for.
    """

    steps: tuple[Step, ...]
    head: Head = field(default_factory=Head)
    name: str = "recipe"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, from which `parse` makes the recipe again; defaults are left out."""
        head = self.head.model_dump(mode="json", exclude_defaults=True)
        rest = {key: value for key, value in head.items() if key != "version"}
        return {"version": VERSION, **rest, "steps": [step_to_dict(step) for step in self.steps]}

    def to_yaml(self) -> str:
        """YAML text, from which `load` makes the recipe again."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def check(self) -> None:
        """Finds steps that cannot follow one another, before any model is opened.

        Raises:
            RecipeError: names both steps and the reason.
        """
        for later, step in enumerate(self.steps):
            for earlier, previous in enumerate(self.steps[:later]):
                if _narrowed(step) or _narrowed(previous):
                    continue
                for kind in previous.leaves:
                    if kind in step.refuses:
                        raise RecipeError(
                            f"{self.name}: step {later + 1} ({step.title}) cannot follow step "
                            f"{earlier + 1} ({previous.title}): {step.refuses[kind]}",
                            "change their order, or aim them at different layers",
                        )


def _narrowed(step: Step) -> bool:
    """Whether only the model can tell which tensors the step is aimed at."""
    return bool(step.include or step.exclude)


def step_to_dict(step: Step) -> dict[str, Any]:
    """A step as it stands in a recipe."""
    fields = step.model_dump(mode="json", exclude_unset=True)
    return {step.family: step.method, **fields}


def load(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file.

    Args:
        path: the file; see `place_of`.
        settings: values in place of the file's, such as "steps.0.sparsity=0.8".

    Raises:
        RecipeError: everything that is wrong with it, in one line.
    """
    from modelcut.recipe.yaml_text import load_file

    document = load_file(place_of(path))
    if settings:
        from modelcut.recipe.settings import with_settings

        document = with_settings(document, settings)
    return parse(document)


def shipped() -> dict[str, Path]:
    """The recipes that come with modelcut, by name."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    # A checkout that is installed in place has them beside the package.
    folder = inside if inside.is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def place_of(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe that is named by its path, or by the name of a built-in one.

    A file of that name is taken first.
    """
    path = Path(name)
    if path.exists() or path.name != str(name):
        return path
    return shipped().get(path.name, path)


def parse(document: Document) -> Recipe:
    """Makes a recipe of located plain data; see `load`."""
    data = document.data
    if not isinstance(data, dict):
        raise RecipeError(
            f"{document.where(())}: a recipe is a mapping with the key 'steps', not a "
            f"{_kind(data)}",
            "`modelcut recipe show` prints an example",
        )
    problems = _Problems(document)
    head_data = {key: value for key, value in data.items() if key != "steps"}
    known = [*Head.model_fields, "steps"]
    if place := _open_value(data, ()):
        raise RecipeError(
            f"{document.where(place)}: {place[-1]!r} leaves a value open",
            "`modelcut search -r` decides it; `modelcut run` takes recipes that say all",
        )
    head = problems.validate(Head, head_data, (), known)
    parsed = []
    if "steps" not in data:
        problems.add((), "no 'steps'", near("steps", head_data))
    elif not isinstance(data["steps"], list):
        problems.add(("steps",), f"steps must be a list, not a {_kind(data['steps'])}")
    else:
        for index, item in enumerate(data["steps"]):
            parsed.append(_step(item, index, problems))
    problems.raise_if_any()
    assert head is not None
    recipe = Recipe(tuple(step for step in parsed if step), head, document.name)
    recipe.check()
    return recipe


OPEN = {"choose": ["choose"], "range": ["range", "log"], "maybe": ["maybe"]}
"""What may stand in the place of a value that a search decides: see `space`."""


def is_open(value: Any, key: str) -> bool:
    """Whether a value is left open in this way."""
    return isinstance(value, dict) and key in value and set(value) <= set(OPEN[key])


def _open_value(value: Any, path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Path of the first value that is left open; () where there is none."""
    for key in OPEN:
        if is_open(value, key):
            return (*path, key)
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return next((found for key, item in items if (found := _open_value(item, (*path, key)))), ())


def _step(item: Any, index: int, problems: _Problems) -> Step | None:
    path: tuple[str | int, ...] = ("steps", index)
    if isinstance(item, str) and item in steps.families():
        item = {item: {}}
    if not isinstance(item, dict):
        problems.add(path, f"a step looks like '- prune: magnitude', not like a {_kind(item)}")
        return None
    families = [key for key in item if key in steps.families()]
    if len(families) > 1:
        families = _with_own_fields(item, families)
    if len(families) != 1:
        if families:
            problems.add(path, f"one step names {' and '.join(families)}: make it several steps")
            return None
        first = next(iter(item), "")
        hint = near(first, steps.families()) or f"known: {', '.join(steps.families())}"
        problems.add((*path, first), f"unknown step {first!r}", hint)
        return None
    family = families[0]
    fields = {key: value for key, value in item.items() if key != family}
    value = item[family]
    # Both `- prune: magnitude` with fields beside it, and `- prune: {method: …, fields}`.
    if isinstance(value, dict):
        twice = sorted(set(value) & set(fields))
        if twice:
            problems.add((*path, twice[0]), f"{twice[0]!r} is given twice in one step")
            return None
        method = value.get("method", steps.default(family))
        inner = {key: v for key, v in value.items() if key != "method"}
        place: tuple[str | int, ...] = (*path, family)
        fields = {**inner, **fields}
    else:
        method, place = value, path
    try:
        cls = steps.find(family, str(method))
    except RecipeError as error:
        problems.add((*path, family), error.message, error.hint)
        return None
    return problems.validate(cls, fields, place, list(cls.model_fields))


def _with_own_fields(item: Mapping[str, Any], families: list[str]) -> list[str]:
    """Of several families that a step names: the one of which the others are fields."""
    found = []
    for family in families:
        others = [other for other in families if other != family]
        if not all(_may_be_field(other, item[other]) for other in others):
            continue
        method = item[family]
        if isinstance(method, dict):
            method = method.get("method", steps.default(family))
        with contextlib.suppress(RecipeError):
            if set(others) <= set(steps.find(family, str(method)).model_fields):
                found.append(family)
    return found if len(found) == 1 else families


def _may_be_field(family: str, value: Any) -> bool:
    """Whether a key that names a family is not there to name a method of it."""
    if isinstance(value, dict):
        return True
    return value not in (*steps.methods(family), *steps.aliases(family))


class _Problems:
    """Gathers what is wrong, so that all of it is said at once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._lines: list[str] = []

    def add(self, path: tuple[str | int, ...], what: str, hint: str = "") -> None:
        line = f"{self._document.where(path)}: {what}" + (f" ({hint})" if hint else "")
        if line not in self._lines:
            self._lines.append(line)

    def validate(
        self,
        cls: type[Any],
        data: Mapping[str, Any],
        path: tuple[str | int, ...],
        known: Iterable[str],
    ) -> Any:
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                what, hint = explain(problem, known, cls)
                self.add((*path, *problem["loc"]), what, hint)
            return None

    def raise_if_any(self) -> None:
        if self._lines:
            raise RecipeError("; ".join(self._lines))


def _kind(value: Any) -> str:
    names = {dict: "mapping", list: "list", str: "text", bool: "boolean"}
    return names.get(type(value), "number")


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe, for editors."""
    definitions: dict[str, Any] = {}
    choices = []
    for family in steps.families():
        for method in steps.methods(family):
            cls = steps.find(family, method)
            part = cls.model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(part.pop("$defs", {}))
            part["title"] = f"{family}: {method}"
            names = [method, *(old for old, new in steps.aliases(family).items() if new == method)]
            named: dict[str, Any] = {"const": method} if len(names) == 1 else {"enum": names}
            named["description"] = "The method of this step."
            own = {field: _or_open(about) for field, about in part.get("properties", {}).items()}
            part["properties"] = {family: named, **own}
            for old, new in cls.aliases.items():
                about = f"Former name of {new}."
                now = part["properties"][new]
                part["properties"][old] = {**now, "description": about, "deprecated": True}
            part["required"] = [family, *part.get("required", [])]
            choices.append(part)
    head = Head.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(head.pop("$defs", {}))
    head["properties"]["steps"] = {
        "type": "array",
        "description": "Applied in this order.",
        "items": {"anyOf": [{"$ref": "#/$defs/step"}, *_open_steps()]},
    }
    definitions |= {"step": {"anyOf": choices}, **_open_values()}
    head["required"] = ["steps"]
    head["title"] = "modelcut recipe"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **head,
        "$defs": definitions,
    }


def _or_open(about: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a field whose value a search may decide."""
    told = {name: about[name] for name in ("title", "description", "default") if name in about}
    plain = {name: value for name, value in about.items() if name not in told}
    return {**told, "anyOf": [plain, {"$ref": "#/$defs/choose"}, {"$ref": "#/$defs/range"}]}


def _open_steps() -> list[dict[str, Any]]:
    """JSON Schema of steps that a search may take, leave out, or choose among."""
    step = {"$ref": "#/$defs/step"}
    found = []
    for key, content in (("maybe", step), ("choose", {"type": "array", "items": step})):
        about = {"type": "object", "properties": {key: content}, "required": [key]}
        found.append({**about, "additionalProperties": False})
    return found


def _open_values() -> dict[str, Any]:
    """JSON Schema of what may stand in the place of a value; for `modelcut search`."""
    number = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    return {
        "choose": {
            "type": "object",
            "description": "One of these values; modelcut search decides.",
            "properties": {"choose": {"type": "array", "minItems": 1}},
            "required": ["choose"],
            "additionalProperties": False,
        },
        "range": {
            "type": "object",
            "description": "A number between these two; modelcut search decides.",
            "properties": {"range": number, "log": {"type": "boolean"}},
            "required": ["range"],
            "additionalProperties": False,
        },
    }
