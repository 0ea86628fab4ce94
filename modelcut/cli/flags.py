"""Fields of pydantic models -> Typer parameters: a flag is declared once, where its meaning is.

All flags default to None, so that pydantic alone validates and knows what was given.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from modelcut.errors import UsageError
from modelcut.metrics.each import ONE_OR_EACH

Parameter = inspect.Parameter

_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,15})?")


_DEFAULT = re.compile(r" \(default: ([^()]*)\)(?=\.$|$|\. )")

Complete = Callable[..., Any]


def option(
    name: str,
    text: str,
    *names: str,
    metavar: str = "TEXT",
    kind: Any = str,
    panel: str | None = None,
    hidden: bool = False,
    complete: Complete | None = None,
) -> Parameter:
    """One flag, None unless given, here or by the variable `MODELCUT_NAME`.

    Args:
        name: its key among the values that a command receives.
        text: its help; what stands there as "(default: X)" is shown as its default.
        names: how it is written; by default `--name-with-dashes`.
        metavar: what its value is.
        kind: bool, str, or list[str] for a flag that can be repeated.
        panel: the panel of the help that it stands in.
        hidden: it is parsed, and not shown.
        complete: gives the values that complete a word; by default those that `metavar` lists.
    """
    names = names or ("--" + name.replace("_", "-"),)
    default = _DEFAULT.search(text)
    if kind is not bool and complete is None:
        complete = _among(metavar)
    declared = typer.Option(
        *names,
        help=_DEFAULT.sub("", text),
        show_default=default[1] if default else False,
        metavar=None if kind is bool else metavar,
        envvar=f"MODELCUT_{name.rstrip('_').upper()}",
        show_envvar=False,
        rich_help_panel=panel,
        hidden=hidden,
        autocompletion=complete,
    )
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, declared]
    )


def _among(metavar: str) -> Complete | None:
    """Completes the words of a metavar such as none|fast|best."""
    words = [word for word in metavar.split("|") if not word.isupper()]
    if not words:
        return None
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def argument(
    name: str,
    text: str,
    *,
    required: bool = True,
    panel: str | None = None,
    complete: Complete | None = None,
) -> Parameter:
    """One positional argument."""
    told = _DEFAULT.search(text)
    declared = typer.Argument(
        help=_DEFAULT.sub("", text),
        metavar=name.upper(),
        rich_help_panel=panel,
        autocompletion=complete,
        show_default=told[1] if told else False,
    )
    kind: Any = str if required else Optional[str]  # noqa: UP045 - for Typer
    default = Parameter.empty if required else None
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
    )


def of_models(
    classes: Iterable[type[BaseModel]],
    panel: str | None = None,
    *,
    only: Callable[[str, Any], bool] = lambda name, info: True,
    hidden: bool = False,
    complete: Mapping[str, Complete] | None = None,
) -> list[Parameter]:
    """One flag for each field of the models; fields of one name share a flag.

    A field that not all of the models have, or that means something else to some of them, says in
    its help which have it (`method` names them).

    Args:
        classes: the models.
        panel: the panel of the help that the flags stand in.
        only: tells of a field, by its name and description, whether it has a flag.
        hidden: the flags are parsed, and not shown.
        complete: by field, what completes its values.
    """
    classes = list(classes)
    owners: dict[str, list[type[BaseModel]]] = {}
    for cls in classes:
        for name in cls.model_fields:
            owners.setdefault(name, []).append(cls)
    parameters = []
    for name, having in owners.items():
        info = having[0].model_fields[name]
        if not only(name, info):
            continue
        meanings: dict[str, list[str]] = {}
        for cls in having:
            text = _described(cls.model_fields[name])
            meanings.setdefault(text, []).append(str(getattr(cls, "method", cls.__name__)))
        shared = len(meanings) == 1 and len(having) == len(classes)
        text = " ".join(
            text if shared else f"{text} [{', '.join(methods)}]"
            for text, methods in meanings.items()
        )
        former = [old for cls in having for old in _former(cls, name)]
        flags = ["--" + each.replace("_", "-") for each in dict.fromkeys((name, *former))]
        kind: Any = str
        if all(_is_bool(cls.model_fields[name].annotation) for cls in having):
            kind, flags = bool, [f"{flags[0]}/--no-{flags[0][2:]}"]
        elif _is_texts(info.annotation):
            kind = list[str]
        metavar = "YAML" if _repeats(info) else _metavar(info.annotation)
        parameters.append(
            option(
                name,
                text,
                *flags,
                metavar=metavar,
                kind=kind,
                panel=panel,
                hidden=hidden,
                complete=(complete or {}).get(name),
            )
        )
    return parameters


def command(parameters: Iterable[Parameter], body: Callable[..., None]) -> Callable[..., None]:
    """`body(**values)` as a function whose signature Typer can read."""
    parameters = list(parameters)

    def call(**values: Any) -> None:
        if not any(value == "-" for value in values.values()):
            body(**values)
            return
        from modelcut.cli import stdin

        with stdin.read(values) as read:
            body(**read)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__doc__ = body.__doc__
    return call


def fields_given(cls: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `cls` for which a flag was given, as plain data for pydantic."""
    return {
        name: _parse(name, values[name], info.annotation, _repeats(info))
        for name, info in cls.model_fields.items()
        if values.get(name) is not None
    }


def build(cls: type[Any], fields: Mapping[str, Any]) -> Any:
    """Validates fields that came from flags.

    Raises:
        UsageError: names the flag, what is wrong with it, and the nearest known one.
    """
    from modelcut.errors.explain import explain

    try:
        return cls.model_validate(dict(fields))
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            what, hint = explain(problem, cls.model_fields, cls)
            name = str(problem["loc"][0]) if problem["loc"] else what.partition(":")[0]
            known = bool(problem["loc"]) or name in cls.model_fields
            flag = f"--{name.replace('_', '-')}: " if known else ""
            what = what.removeprefix(f"{name}: ") if flag else what
            lines.append(f"{flag}{what}" + (f" ({hint})" if hint else ""))
        raise UsageError("; ".join(lines), "--help lists the options") from None


def _described(info: Any) -> str:
    """The description of a field, with its default unless that is no value or told already."""
    text = str(info.description or "")
    default = info.default
    if isinstance(default, bool):
        default = str(default).lower() if default else None
    if info.is_required() or default in (None, PydanticUndefined, "", 0) or "default" in text:
        return text
    return f"{text.removesuffix('.')} (default: {default})."


def _former(cls: type[BaseModel], name: str) -> list[str]:
    """Former names of a field."""
    aliases: Mapping[str, str] = getattr(cls, "aliases", {})
    return [old for old, new in aliases.items() if new == name]


def _repeats(info: Any) -> bool:
    """Whether a flag takes a list of names in YAML, or a name each time that it is given."""
    extra = info.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("repeat"))


def _parse(name: str, value: Any, annotation: Any, repeats: bool = False) -> Any:
    """Text from the shell as YAML would read it, where the field is more than plain text."""
    if (
        repeats
        and isinstance(value, list)
        and len(value) == 1
        and value[0].strip()[:1] in ("[", "{")
    ):
        value = value[0]
    if not isinstance(value, str) or set(_members(annotation)) <= {str, type(None)}:
        return value
    if get_origin(annotation) is Literal:
        return next((one for one in get_args(annotation) if str(one) == value), value)
    if value == "":
        return value
    if _NUMBER.fullmatch(value):  # the same in YAML, whose reader takes time to start
        return float(value) if "." in value else int(value)
    from modelcut.recipe.yaml_text import loads

    return loads(value, f"--{name.replace('_', '-')}").data


def _members(annotation: Any) -> list[Any]:
    """The types of a union; annotations on them are dropped."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]


def _is_bool(annotation: Any) -> bool:
    return set(_members(annotation)) <= {bool, type(None)} and annotation is not type(None)


def _is_texts(annotation: Any) -> bool:
    members = [part for part in _members(annotation) if part is not type(None)]
    return members == [list[str]]


def _metavar(annotation: Any) -> str:
    names = []
    for part in _members(annotation):
        if part is type(None):
            continue
        if get_origin(part) is Literal:
            names += [str(value) for value in get_args(part)]
        else:
            base = get_origin(part) or part
            simple = {int: "INT", float: "NUMBER", str: "TEXT", bool: "BOOL"}
            names.append("PATTERN" if part == list[str] else simple.get(base, "YAML"))
    if _one_or_each(annotation):
        names.append("YAML")
    return "|".join(dict.fromkeys(names))


def _one_or_each(annotation: Any) -> bool:
    """Whether a mapping by output may stand in the place of the value."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return any(part is ONE_OR_EACH for part in parts[1:])
    return any(_one_or_each(part) for part in parts)
